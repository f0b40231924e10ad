// What the browser has to do itself, since ipycanvas and ipywidgets pass it on to nobody. Without it all still works by
// mouse: it filters events, keeps the focus where the keys are meant, and gives names to what has none.
const begin = tries => {
  const root = this.closest('.dragnb');
  if (!root) { if (tries) setTimeout(begin, 100, tries - 1); return; } // the page is not put together yet
  if (root.dragnb) return;
  root.dragnb = true;
  const canvas = () => root.querySelector('canvas');
  const focus = () => canvas() && HTMLElement.prototype.focus.call(canvas(), {preventScroll: true});
  const texts = 'input:not([type=checkbox]), textarea, select, a, summary, canvas, .widget-readout';
  const heard = (names, f) => names.split(' ').forEach(n => root.addEventListener(n, f, {capture: true, passive: false}));
  const stop = e => e.stopImmediatePropagation();
  let ours = false, byPointer = false;

  // JupyterLab's plain keys belong to the notebook (m, d d would destroy the cell): not while the focus is in here. On the
  // window, since JupyterLab itself listens on the document before anything below it hears a key.
  window.addEventListener('keydown', e => {
    const plain = !e.ctrlKey && !e.metaKey && !e.altKey && !(e.shiftKey && e.key === 'Enter');
    if (root.contains(e.target)) e.target.toggleAttribute('data-lm-suppress-shortcuts', plain);
  }, true);

  // Only the first button draws; a stroke goes on beyond the edge; the focus does not scroll the page.
  heard('pointerdown', e => {
    byPointer = true;
    if (e.target !== canvas()) return;
    e.target.focus = focus;
    if (e.button === 0 && e.pointerType !== 'touch') e.target.setPointerCapture(e.pointerId);
  });
  heard('mousedown mouseup', e => {
    if (e.target !== canvas() || e.button === 0) return;
    stop(e);
    if (e.button === 1) e.preventDefault();
  });
  // The wheel scrolls the page; with Ctrl, as a pinch on a touchpad has it, it zooms.
  heard('wheel', e => { if (e.target === canvas() && !e.ctrlKey && !e.metaKey) stop(e); });

  // After a press on a button or slider the keys are the canvas's again, not the notebook's: at once, and once more where
  // the notebook takes them a little later; never from a place where somebody has gone since.
  let moves = 0; // of the user: presses, keys, and focus on anything of this page or on a text elsewhere
  const writes = at => at.matches('input, textarea, [contenteditable=true]');
  const moved = e => {
    if (e.type === 'keydown' && !e.isTrusted) return; // one of our own, for the kernel
    if (e.type !== 'focusin' || writes(e.target) || (root.contains(e.target) && e.target !== canvas())) moves++;
    if (e.type === 'pointerdown') ours = root.contains(e.target) && !e.target.closest(texts);
  };
  ['pointerdown', 'keydown', 'focusin'].forEach(n => document.addEventListener(n, moved, true));
  const giveBack = () => {
    focus();
    const then = moves;
    const again = () => { if (moves === then && root.isConnected) focus(); };
    [0, 50, 300].forEach(wait => setTimeout(again, wait));
  };
  // a finger's press on a button moves the focus after it was lifted, so the click counts too
  ['pointerup', 'click'].forEach(n => document.addEventListener(n, () => {
    if (ours && root.isConnected) giveBack();
    if (n === 'click') ours = false;
  }, true));
  heard('keydown', e => { if (e.isTrusted) byPointer = ours = false; });
  heard('change', e => { if (byPointer && e.target.matches('select')) giveBack(); });

  // The canvas keeps every key from the browser, but Tab goes on to what comes next, with Shift to what came before.
  heard('keydown', e => { if (e.target === canvas() && e.key === 'Tab') stop(e); });
  // ipycanvas hears no key go up.
  const key = name => canvas()?.dispatchEvent(new KeyboardEvent('keydown', {key: name}));
  heard('keyup', e => { if (e.target === canvas() && e.key === ' ') key('SpaceUp'); });

  // What the kernel cannot know is written into hidden texts that it reads.
  const tell = (name, value) => {
    const text = root.querySelector(`.dragnb-${name} textarea`);
    if (!text || text.value === value) return;
    text.value = value;
    ['input', 'change'].forEach(n => text.dispatchEvent(new Event(n, {bubbles: true})));
  };
  // A canvas is shown as wide as there is room: its marks, and what a press reaches, are of one size on every screen.
  const measured = new ResizeObserver(() => { if (canvas()?.clientWidth) tell('width', `${canvas().clientWidth}`); });

  // While the kernel is busy, ipywidgets sends a widget's first change at once and its later ones when that was answered,
  // but presses on the canvas and on buttons always at once: they would overtake what was chosen and typed before them.
  // So the tool goes to the canvas' own line as well, as a key that no keyboard has ...
  const slider = e => e.target.closest('.widget-slider');
  heard('click', e => {
    const tool = e.target.closest('.dragnb-icons .widget-toggle-button');
    if (!tool) return;
    const name = tool.getAttribute('aria-label') || tool.textContent.trim();
    key(name === 'eraser' ? `eraser ${tool.matches('.mod-active') ? 'off' : 'on'}` : `tool ${name}`);
  });
  heard('pointerup keyup focusout', e => {
    const size = slider(e)?.closest('.dragnb-size')?.querySelector('.widget-readout');
    if (size) setTimeout(() => key(`brush ${size.textContent}`));
  });
  // ... and a press on a button that reads what stands in a field waits until the kernel has got it.
  const held = [];
  let changes = new Map(), since = new Map(), asking = false, letting = false; // changes: by widget, unanswered yet
  const heartbeat = () => root.querySelector('.dragnb-pulse textarea');
  const ask = () => {
    since = new Map();
    tell('pulse', `${heartbeat().value}!`);
    answered();
  };
  const answered = () => {
    if (!root.isConnected) return;
    if (heartbeat().value) { setTimeout(answered, 50); return; }
    changes = new Map(since);
    if (since.size) { ask(); return; }
    asking = false;
    letting = true;
    held.splice(0).forEach(button => button.click());
    letting = false;
  };
  const count = (e, times) => {
    const widget = e.target.closest('.jupyter-widgets');
    if (!widget || !heartbeat() || widget.matches('.dragnb-pulse')) return;
    [changes, since].forEach(all => all.set(widget, (all.get(widget) || 0) + times));
    if (!asking) setTimeout(ask); // after the change itself
    asking = true;
  };
  heard('change', e => count(e, 1));
  heard('pointerup keyup', e => { if (slider(e)) count(e, 2); }); // one drag is many changes
  heard('click', e => {
    if (e.target.closest('.widget-toggle-button')) count(e, 1);
    const button = e.target.closest('.widget-button:not(.dragnb-now)');
    if (!button || letting || !(held.length || [...changes.values()].some(n => n > 1))) return;
    stop(e);
    held.push(button);
  });

  // A picture that is dropped or pasted, with its name.
  const MOST = 7e6; // bytes that pass through an ordinary Jupyter server
  const take = files => {
    const file = files[0];
    if (!file) return false;
    const send = content => tell('dropped', `${file.name}\n${content}`);
    if (file.size > MOST) { send(''); return true; }
    const reader = new FileReader();
    reader.onload = () => send(reader.result.split(',')[1]);
    reader.readAsDataURL(file);
    return true;
  };
  heard('dragover', e => { e.preventDefault(); stop(e); });
  heard('drop', e => { e.preventDefault(); stop(e); take(e.dataTransfer.files); });
  document.addEventListener('paste', e => {
    if (root.contains(document.activeElement) && take(e.clipboardData.files)) { e.preventDefault(); stop(e); }
  }, true);

  // no notebook stands round it (voila has JupyterLab's shell too, Colab and editors show widgets in a frame)
  const alone = window === window.top && !document.querySelector('.jp-NotebookPanel, #notebook');
  const name = () => {
    if (alone && root.querySelector('.dragnb-run')) document.title = 'dragnb studio';
    const pictured = canvas();
    if (pictured && !pictured.hasAttribute('aria-label')) {
      pictured.setAttribute('role', 'application');
      pictured.setAttribute('aria-label', 'picture: key n places a point, arrow keys move it, d deletes it');
      measured.observe(pictured);
    }
    // an icon's own character is no part of its button's name
    root.querySelectorAll('button').forEach(b => {
      const label = b.textContent.trim();
      if (b.querySelector('i') && label && b.getAttribute('aria-label') !== label) b.setAttribute('aria-label', label);
    });
    root.querySelectorAll('img:not([alt])').forEach(i => { i.alt = i.parentElement?.querySelector('button')?.title || 'picture'; });
    root.querySelectorAll('.noUi-handle, .ui-slider-handle').forEach(h => {
      const label = h.closest('.widget-inline-hbox, .jupyter-widgets')?.parentElement?.querySelector('.widget-label');
      if (!h.hasAttribute('aria-label') && label) h.setAttribute('aria-label', label.textContent);
    });
  };
  new MutationObserver(name).observe(root, {childList: true, subtree: true});
  name();

  // As a page of its own, its drags end with the page; and no notebook says that the kernel has gone. The kernel empties
  // a text that is written for it; where it stays, nobody is there.
  const PULSE = 10000; // milliseconds
  const gone = document.createElement('div');
  gone.className = 'dragnb-gone';
  gone.setAttribute('role', 'alert');
  gone.textContent = 'The kernel behind this page has ended, or cannot be reached: what is here can still be looked at, ' +
    'and nothing more. Load the page again to begin anew.';
  const beat = unanswered => {
    if (!root.isConnected) return;
    const last = root.querySelector('.dragnb-pulse textarea')?.value;
    const count = last ? unanswered + 1 : 0;
    if (count > 2) document.body.append(gone);
    else gone.remove();
    tell('pulse', `${last || 'is anybody there'}?`);
    setTimeout(beat, PULSE, count);
  };
  if (alone) {
    root.classList.add('dragnb-alone');
    window.addEventListener('beforeunload', e => {
      if (root.isConnected && root.matches('.dragnb-unsaved')) { e.preventDefault(); e.returnValue = ''; }
    });
    beat(0);
  }
};
begin(50);
