"""The fine-tune: identity at first, learns, travels in a file, and leaves no trace on the model."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from dragnb import lora, sd
from dragnb.config import Settings, profile
from dragnb.errors import InputError


@pytest.fixture(scope="module")
def z():
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def cond(smoke):
    return sd.embed(smoke, "a cat")


@pytest.fixture(scope="module")
def trained(smoke, z, cond):
    """Weights after a few steps with a high learning rate, so that they matter."""
    settings = Settings(lora_steps=4, lora_rank=4, lora_batch=2, lora_lr=1e-2)
    with lora.attached(smoke, settings):
        list(lora.finetune(smoke, (z, torch.zeros_like(z)), cond, settings))
        return lora.weights_of(smoke)


def bits(model):
    return {name: p.detach().clone() for name, p in model.unet.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_fresh_adapter_is_exactly_the_identity(smoke, z, cond):
    before = sd.eps(smoke, z, 681, cond)
    with lora.attached(smoke, Settings()):
        assert torch.equal(sd.eps(smoke, z, 681, cond), before)


def test_a_fresh_adapter_has_rank_as_alpha_and_gaussian_downs(smoke):
    with lora.attached(smoke, Settings(lora_rank=8)) as params:
        config = smoke.unet.peft_config[lora.ADAPTER]
        downs = torch.cat([p.flatten() for n, p in smoke.unet.named_parameters() if ".lora_A." in n])
        assert config.r == config.lora_alpha == 8
        assert abs(downs.std().item() - 1 / 8) < 0.01
        assert all(p.requires_grad and p.dtype == torch.float32 for p in params)


@pytest.mark.parametrize(("name", "per_layer"), [("paper", 3), ("reference", 4)])
def test_profiles_adapt_the_projections_they_say(smoke, name, per_layer):
    layers = len(smoke.unet.attn_processors)
    with lora.attached(smoke, profile(name)):
        assert len(lora.weights_of(smoke)) == 2 * per_layer * layers


def test_the_model_is_as_before_whatever_happens_inside(smoke, z, cond):
    before, tree = bits(smoke), str(smoke.unet)
    with pytest.raises(ZeroDivisionError), lora.attached(smoke, Settings(lora_rank=2)):
        1 / 0  # noqa: B018
    assert same(bits(smoke), before) and str(smoke.unet) == tree
    assert not any(p.requires_grad or p.grad is not None for p in smoke.unet.parameters())
    with lora.attached(smoke, Settings(lora_rank=2)):
        pass  # a second picture may follow


def test_two_adapters_at_once_are_refused(smoke):
    with lora.attached(smoke, Settings(lora_rank=2)):
        with pytest.raises(InputError, match="carries an adapter already"), lora.attached(smoke, Settings()):
            pass
        assert lora.weights_of(smoke), "the refusal must not take off the first"


def test_the_loss_falls_on_one_picture(smoke, z, cond):
    settings = Settings(lora_steps=40, lora_rank=8, lora_batch=2, lora_lr=5e-3)
    with lora.attached(smoke, settings):
        losses = [s.loss for s in lora.finetune(smoke, (z, torch.zeros_like(z)), cond, settings)]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])


def test_a_seed_gives_the_same_weights_and_leaves_the_global_stream_alone(smoke, z, cond):
    def once(seed):
        settings = Settings(lora_steps=2, lora_rank=2, lora_batch=1, seed=seed)
        with lora.attached(smoke, settings):
            list(lora.finetune(smoke, (z, torch.ones_like(z)), cond, settings))
            return lora.weights_of(smoke)

    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    a = once(1)
    assert torch.equal(torch.rand(1), first)
    assert same(a, once(1)) and not same(a, once(2))


def test_training_moves_only_the_adapter_and_leaks_no_gradient(smoke, z, cond):
    settings, before = Settings(lora_steps=2, lora_rank=2, lora_batch=1), bits(smoke)
    with lora.attached(smoke, settings):
        for state in lora.finetune(smoke, (z, torch.zeros_like(z)), cond, settings):
            assert isinstance(state.loss, float)
            assert torch.is_grad_enabled(), "grad mode must not leak across a yield"
    assert same(bits(smoke), before)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_weights_train_a_float32_adapter(smoke_folder, z, dtype):
    model = sd.load(str(smoke_folder), device="cpu", dtype=dtype)
    settings = Settings(lora_steps=30, lora_rank=8, lora_batch=2, lora_lr=5e-3)
    with lora.attached(model, settings) as params:
        losses = [
            s.loss for s in lora.finetune(model, (z, torch.zeros_like(z)), sd.embed(model, ""), settings)
        ]
        assert {p.dtype for p in params} == {torch.float32}
    assert sum(losses[-8:]) < 0.98 * sum(losses[:8])


def test_only_the_timesteps_of_the_edit_are_learned_where_so_set(smoke, z, cond, monkeypatch):
    seen, original = [], sd.predict
    monkeypatch.setattr(sd, "predict", lambda m, z, t, c: seen.extend(t.tolist()) or original(m, z, t, c))
    for lora_t in ("all", "used"):
        settings = Settings(lora_steps=15, lora_rank=1, lora_t=lora_t, strength=0.4)
        with lora.attached(smoke, settings):
            list(lora.finetune(smoke, (z, torch.zeros_like(z)), cond, settings))
    assert settings.t == 381 and max(seen[60:]) <= 381 < max(seen[:60]) and len(seen) == 120


def test_it_ends_by_itself_when_ten_steps_gain_too_little(smoke, z, cond):
    def run(**changes):
        settings = Settings(lora_steps=30, lora_rank=4, lora_batch=1, lora_lr=5e-3, **changes)
        with lora.attached(smoke, settings):
            return list(lora.finetune(smoke, (z, torch.zeros_like(z)), cond, settings))

    whole, watched, short = run(), run(lora_stop=1e-9), run(lora_stop=0.5)
    assert [s.loss for s in watched] == [s.loss for s in whole][: len(watched)], "looking changes nothing"
    assert [s.step for s in watched if s.score is not None] == [10, 20, 30][: len(watched) // 10]
    assert watched[9].score < 1 and all(s.score is None for s in whole)
    assert [s.last for s in short] == [False] * 19 + [True], "the first look of the second half is at step 20"
    assert whole[-1].last


def test_between_two_steps_the_adapter_is_as_anyone_reads_it(smoke, z, cond):
    settings = Settings(lora_steps=3, lora_rank=4, lora_batch=1, lora_lr=1e-2)
    own = sd.private(smoke)
    with lora.attached(own, settings):
        for _ in lora.finetune(own, (z, torch.zeros_like(z)), cond, settings):
            attached = sd.eps(own, z, 301, cond)
            merged = sd.eps(lora.merged(smoke, lora.weights_of(own)), z, 301, cond)
            torch.testing.assert_close(attached, merged, atol=2e-5, rtol=1e-4)


def test_stopping_early_keeps_what_was_learned(smoke, z, cond):
    settings = Settings(lora_steps=50, lora_rank=2, lora_batch=1)
    with lora.attached(smoke, settings):
        steps = lora.finetune(smoke, (z, torch.zeros_like(z)), cond, settings)
        next(steps), next(steps)
        steps.close()
        assert any(v.abs().max() > 0 for k, v in lora.weights_of(smoke).items() if k.endswith(lora.UP))


def test_training_without_an_adapter_is_refused(smoke, z, cond):
    with pytest.raises(InputError, match="no adapter is attached"):
        next(lora.finetune(smoke, (z, z), cond, Settings()))
    with pytest.raises(InputError, match="no adapter is attached"):
        lora.weights_of(smoke)


def test_a_broken_loss_is_named_with_its_step(smoke, z, cond):
    settings = Settings(lora_steps=1, lora_rank=2)
    with lora.attached(smoke, settings), pytest.raises(InputError, match="loss is nan at step 1.*lora_lr"):
        next(lora.finetune(smoke, (z * float("nan"), z), cond, settings))


def test_merged_equals_attached_and_leaves_the_first_model_alone(smoke, z, cond, trained):
    before, plain = bits(smoke), sd.eps(smoke, z, 681, cond)
    tuned = lora.merged(smoke, trained)
    with lora.attached(smoke, Settings(lora_rank=4)):
        for name, p in smoke.unet.named_parameters():
            for theirs, ours in ((".lora_A.dragnb.weight", lora.DOWN), (".lora_B.dragnb.weight", lora.UP)):
                if name.endswith(theirs):
                    p.data.copy_(trained[lora.PREFIX + name.removesuffix(theirs) + ours])
        attached = sd.eps(smoke, z, 681, cond)
    torch.testing.assert_close(sd.eps(tuned, z, 681, cond), attached, atol=1e-5, rtol=1e-4)
    assert (attached - plain).abs().max() > 1e-3, "the adapter must matter for this test to mean anything"
    assert same(bits(smoke), before)


def test_an_adapter_on_the_output_projection_is_heard(smoke, z, cond):
    settings, before = Settings(lora_rank=2, lora_targets=("to_out.0",)), sd.eps(smoke, z, 301, cond)
    with lora.attached(smoke, settings) as params, torch.no_grad():
        for i, p in enumerate(params):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        assert (sd.eps(smoke, z, 301, cond) - before).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_puts_every_bit_back_even_after_an_error(smoke_folder, z, trained, dtype):
    model = sd.load(str(smoke_folder), device="cpu", dtype=dtype)
    before = bits(model)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), lora.applied(model, trained):
            assert not same(bits(model), before)
            1 / 0  # noqa: B018
    assert same(bits(model), before)


def test_applied_and_merged_are_one_thing(smoke, z, cond, trained):
    tuned = sd.eps(lora.merged(smoke, trained), z, 21, cond)
    with lora.applied(smoke, trained) as model:
        assert model is smoke
        assert torch.equal(sd.eps(model, z, 21, cond), tuned)


def test_weights_survive_the_file_and_diffusers_reads_it(smoke, smoke_folder, z, cond, trained, tmp_path):
    path = lora.save(tmp_path / "new" / "pytorch_lora_weights.safetensors", trained)
    assert same(lora.load(path), trained)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file is left"

    pipe = StableDiffusionPipeline.from_pretrained(smoke_folder)
    pipe.load_lora_weights(path.parent)
    with torch.no_grad():
        theirs = pipe.unet(z, 681, cond).sample
    torch.testing.assert_close(
        sd.eps(lora.merged(smoke, trained), z, 681, cond), theirs, atol=1e-5, rtol=1e-4
    )


def test_other_spellings_are_read_and_an_alpha_is_folded_in(trained, tmp_path):
    path, other = lora.save(tmp_path / "a.safetensors", trained), {}
    for key, value in load_file(path).items():
        key = key.replace(lora.DOWN, ".lora_A.weight").replace(lora.UP, ".lora_B.weight")
        other[key.replace(lora.PREFIX, "unet.module.")] = value
        if ".lora_B." in key:
            other[key.replace(".lora_B.weight", ".alpha").replace(lora.PREFIX, "unet.module.")] = (
                torch.tensor(2.0)
            )
    save_file(other, tmp_path / "b.safetensors")

    found = lora.load(tmp_path / "b.safetensors")

    assert found.keys() == trained.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, trained[key] * (0.5 if key.endswith(lora.UP) else 1))


def kohya(layer):
    return "lora_unet_" + layer.replace(".", "_")


SPELLINGS = {  # of one layer's two weights
    "diffusers": lambda layer: (f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight"),
    "peft": lambda layer: (f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"),
    "kohya": lambda layer: (f"{kohya(layer)}.lora_down.weight", f"{kohya(layer)}.lora_up.weight"),
    "a U-Net by itself": lambda layer: (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"),
    "public DragDiffusion": lambda layer: (
        f"unet.unet.{layer}.lora.down.weight",
        f"unet.unet.{layer}.lora.up.weight",
    ),
}


@pytest.fixture(scope="module")
def layers(smoke):
    """A random adapter, (down, up) by layer: attention, its feed-forward net, and convolutions of both kinds."""
    generator, layers = torch.Generator().manual_seed(0), {}
    for name, p in smoke.unet.named_parameters():
        if name.endswith(
            ("to_q.weight", "to_out.0.weight", "ff.net.2.weight", "proj_in.weight", "conv1.weight")
        ):
            ones = [1] * (p.ndim - 2)
            down = torch.randn(4, *p.shape[1:], generator=generator) / 10
            up = torch.randn(p.shape[0], 4, *ones, generator=generator) / 10
            layers[name.removesuffix(".weight")] = down, up
    return layers


def spelled(layers, spelling):
    return {
        name: weight
        for layer, pair in layers.items()
        for name, weight in zip(SPELLINGS[spelling](layer), pair, strict=True)
    }


def read_by_diffusers(smoke_folder, path, z, cond, fused=False):
    """The noise that diffusers' own pipeline sees once it has loaded the file, and fused it into its weights."""
    pipe = StableDiffusionPipeline.from_pretrained(smoke_folder)
    pipe.load_lora_weights(path)
    if fused:
        pipe.fuse_lora(components=["unet"])
        pipe.unload_lora_weights()
    with torch.no_grad():
        return pipe.unet(z, 681, cond).sample


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_one_adapter(layers, spelling, tmp_path):
    save_file(spelled(layers, spelling), tmp_path / "a.safetensors")
    assert same(lora.load(tmp_path / "a.safetensors"), spelled(layers, "diffusers"))


def test_a_kohya_file_is_read_as_diffusers_reads_it(smoke, smoke_folder, z, cond, layers, tmp_path):
    alphas = {f"{kohya(layer)}.alpha": torch.tensor(2.0) for layer in layers}
    save_file(spelled(layers, "kohya") | alphas, tmp_path / "a.safetensors")
    ours = sd.eps(lora.merged(smoke, lora.load(tmp_path / "a.safetensors")), z, 681, cond)
    theirs = read_by_diffusers(smoke_folder, tmp_path / "a.safetensors", z, cond)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spelling", ["diffusers", "peft", "kohya"])
def test_convolutions_are_merged_as_diffusers_fuses_them(
    smoke, smoke_folder, z, cond, layers, tmp_path, spelling
):
    convs = {name: pair for name, pair in layers.items() if pair[0].ndim == 4}
    assert {pair[0].shape[-1] for pair in convs.values()} == {1, 3}, "kernels of both sizes"
    save_file(spelled(convs, spelling), tmp_path / "a.safetensors")
    ours = sd.eps(lora.merged(smoke, lora.load(tmp_path / "a.safetensors")), z, 681, cond)
    theirs = read_by_diffusers(smoke_folder, tmp_path / "a.safetensors", z, cond, fused=True)

    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert (ours - sd.eps(smoke, z, 681, cond)).abs().max() > 1e-3, "they must matter"


@pytest.mark.parametrize("end", ["lora_mid.weight", "hada_w1_a", "lokr_w1", "oft_blocks", "diff"])
def test_adapters_of_other_kinds_are_refused_by_the_name_of_their_weight(layers, tmp_path, end):
    """LoCon's middle product, LoHa, LoKr, OFT, whole differences: none is up @ down."""
    layer = next(iter(layers))
    extra = {f"{kohya(layer)}.{end}": torch.ones(4, 4)}
    save_file(spelled(layers, "kohya") | extra, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"{kohya(layer)}.{end}"):
        lora.load(tmp_path / "a.safetensors")


def test_each_layer_of_a_kohya_file_has_its_own_alpha(layers, tmp_path):
    """No parity here: diffusers 0.42 loses the alphas of attention's layers where they differ."""
    alphas = {layer: 1.0 + i % 3 for i, layer in enumerate(layers)}
    beside = {f"{kohya(layer)}.alpha": torch.tensor(alpha) for layer, alpha in alphas.items()}
    save_file(spelled(layers, "kohya") | beside, tmp_path / "a.safetensors")
    right = {layer: (down, up * (alphas[layer] / 4)) for layer, (down, up) in layers.items()}
    assert same(lora.load(tmp_path / "a.safetensors"), spelled(right, "diffusers"))


@pytest.mark.parametrize("pattern", [{}, {"attn2.to_q": 1, "proj_in": 3}])
def test_an_alpha_in_the_header_counts_as_for_diffusers(
    smoke, smoke_folder, z, cond, layers, tmp_path, pattern
):
    config = {
        "r": 4,
        "lora_alpha": 2,
        "alpha_pattern": pattern,
        "rank_pattern": {},
        "target_modules": [*layers],
    }
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, spelled(layers, "a U-Net by itself"), unet_lora_adapter_metadata=config
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    ours = sd.eps(lora.merged(smoke, lora.load(path)), z, 681, cond)
    torch.testing.assert_close(ours, read_by_diffusers(smoke_folder, path, z, cond), atol=1e-5, rtol=1e-4)
    plain = sd.eps(lora.merged(smoke, spelled(layers, "diffusers")), z, 681, cond)
    assert (ours - plain).abs().max() > 1e-3, "the alpha must matter for this test to mean anything"


def test_a_text_encoders_part_is_left_out_and_named(trained, tmp_path):
    layer = "text_encoder.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    others = {f"{layer}.down.weight": torch.ones(2, 8), f"{layer}.up.weight": torch.ones(8, 2)}
    save_file(trained | others, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="2 weights of a text encoder are left out"):
        assert same(lora.load(tmp_path / "a.safetensors"), trained)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_weight_without_its_other_half_is_refused(layers, spelling, tmp_path):
    weights = spelled(layers, spelling)
    gone = [name for name in weights if name.endswith(("up.weight", "lora_B.weight"))][:2]
    save_file({name: w for name, w in weights.items() if name not in gone}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"2 of {len(weights) - 2} weights are no pair of down and up"):
        lora.load(tmp_path / "a.safetensors")


def test_what_is_more_than_plain_lora_is_refused_by_name(layers, tmp_path):
    weights, layer = spelled(layers, "kohya"), next(iter(layers))
    save_file(weights | {f"{kohya(layer)}.dora_scale": torch.ones(8)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"{kohya(layer)}.dora_scale"):
        lora.load(tmp_path / "a.safetensors")
    for kind in ("use_dora", "use_rslora"):
        header = {"lora_adapter_metadata": json.dumps({"unet.r": 4, f"unet.{kind}": True})}
        save_file(spelled(layers, "peft"), tmp_path / "b.safetensors", metadata=header)
        with pytest.raises(InputError, match=f"made with {kind}"):
            lora.load(tmp_path / "b.safetensors")


def test_weights_of_another_model_and_other_files_are_refused(smoke, trained, tmp_path):
    wrong = {k: v[:, :3] if k.endswith(lora.DOWN) else v for k, v in trained.items()}
    with pytest.raises(InputError, match="does not fit this model"):
        lora.merged(smoke, wrong)
    wrong = {k: v[:1] if k.endswith(lora.DOWN) else v for k, v in trained.items()}
    with pytest.raises(InputError, match="does not fit this model"):
        lora.merged(smoke, wrong)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no U-Net weights"):
        lora.load(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        lora.load(tmp_path / "missing.safetensors")
