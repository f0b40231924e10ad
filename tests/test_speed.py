"""The benchmark counts what it says it counts; seconds are measured there, never asserted here."""

import json

import pytest
import torch

from dragnb import config
from dragnb.config import profile
from tools.speed import __main__ as bench
from tools.speed import curves, memory, ours, public


@pytest.fixture
def settings():
    """Few steps, but more than one of each."""
    return profile(
        "fast", steps=5, lora_steps=2, lora_batch=3, lora_rank=2, drag_steps=2, stop=0, lora_stop=0
    )


@pytest.fixture
def tasks():
    """A drag and a shorter one on the same picture."""
    return [bench.a_task(64, 64, reach=reach) for reach in (0.5, 0.25)]


def test_an_edit_is_booked_stage_by_stage_and_a_second_drag_repeats_little(smoke, settings, tasks):
    first, again = ours.first_and_repeat(*tasks, smoke, settings, 64, flops=True)
    depth = 4  # 0.7 of 5 steps, rounded
    assert set(first) == set(config.STAGES) - {"done"}
    assert first["finetune"].forwards == first["finetune"].gradients == 2 * 3
    assert first["invert"].forwards == first["reference"].forwards == depth, "up, and the way down"
    assert first["drag"].forwards == 2 + 1, "the last latent is looked at, too"
    assert first["denoise"].forwards == depth
    assert not any(again[stage].forwards for stage in ("finetune", "invert", "reference")), (
        "kept from the first"
    )
    assert again["drag"].flops == first["drag"].flops > 0


def test_the_public_cost_structure_does_more_of_the_same(smoke, settings, tasks):
    before = {n: p.clone() for n, p in smoke.unet.named_parameters()}
    first, again = public.first_and_repeat(*tasks, smoke, settings, 64, flops=True)
    mine, _ = ours.first_and_repeat(*tasks, smoke, settings, 64, flops=True)
    assert "finetune" not in again and again["invert"].forwards == first["invert"].forwards > 0
    assert first["denoise"].forwards == 2 * mine["denoise"].forwards, "both branches, at every edit"
    assert first["finetune"].flops > mine["finetune"].flops and first["drag"].flops > mine["drag"].flops
    assert all((p == before[n]).all() and not p.requires_grad for n, p in smoke.unet.named_parameters())


def test_settings_on_the_command_line_are_read_as_what_they_are():
    said = ["lora_steps=60", "lora_t=used", "reference=false", "lora_stop=0.015"]
    assert profile("fast", **dict(map(bench.a_setting, said))) == profile(
        "fast", lora_steps=60, lora_t="used", reference=False, lora_stop=0.015
    )


def test_a_clay_task_is_measured_with_all_its_early_ends(
    smoke_folder, tmp_path, capsys, monkeypatch, settings
):
    short = settings.replace(lora_steps=12, lora_batch=1, lora_stop=1, drag_steps=1)
    monkeypatch.setattr(bench, "profile", lambda name, **changes: short)
    bench.main(["--model", str(smoke_folder), "--task", "820001", "--repeats", "1", "--out", str(tmp_path),
                "--device", "cpu"])  # fmt: skip
    (record,) = (json.loads(p.read_text()) for p in tmp_path.glob("*.json"))
    first = record["costs"]["dragnb"]["first edit"]
    assert first["finetune"]["gradients"] == 10 and set(first) == set(config.STAGES) - {"done"}


def test_the_curves_are_drawn_and_kept(smoke_folder, tmp_path, capsys, monkeypatch, settings):
    monkeypatch.setattr(bench, "profile", lambda name, **changes: settings)
    monkeypatch.setattr(curves, "SIDES", (64, 128))
    monkeypatch.setattr(curves, "PAIRS", (1, 3))
    monkeypatch.setattr(curves, "FEW", dict(lora_steps=1, drag_steps=1, strength=0.2))
    bench.main(["--model", str(smoke_folder), "--curves", "--repeats", "1", "--out", str(tmp_path),
                "--device", "cpu"])  # fmt: skip
    assert capsys.readouterr().out.count("finetune") == 4
    points = json.loads((tmp_path / "smoke-curves-cpu.json").read_text())["points"]
    assert points["side"]["128"]["drag"] > 0 and points["pairs"]["3"]["gigabytes"] > 0
    assert (tmp_path / "smoke-curves-cpu.png").stat().st_size > 1000


def test_the_command_writes_a_table_a_record_and_a_chart(
    smoke_folder, tmp_path, capsys, monkeypatch, settings
):
    monkeypatch.setattr(bench, "profile", lambda name, **changes: settings)
    bench.main(["--model", str(smoke_folder), "--side", "64", "--compare", "--repeats", "1", "--out", str(tmp_path),
                "--device", "cpu"])  # fmt: skip
    said = capsys.readouterr().out
    assert "| second drag | drag | public |" in said
    record = json.loads((tmp_path / "smoke-64x64-cpu.json").read_text())
    assert record["costs"]["public"]["first edit"]["finetune"]["seconds"] > 0
    assert record["hardware"]["threads"] >= 1 and (tmp_path / "smoke-64x64-cpu.png").stat().st_size > 1000


def test_memory_is_counted_while_it_lives():
    with memory.Live() as live:
        one = torch.empty(256, device="meta")
        view = one[:10]
        assert live.now == live.peak == 1024 and len(view) == 10
        del one, view
        torch.empty(10, device="meta").add_(1)
    assert live.peak == 1024 and live.now == 0


@pytest.mark.parametrize(("grad", "kept"), [(True, 3), (False, 2)])
def test_memory_that_a_backward_pass_needs_lives_on(grad, kept):
    found = {}
    with memory.Live() as live, torch.set_grad_enabled(grad):
        x = torch.empty(100, device="meta", requires_grad=grad)
        with live.measured(found, "both"):
            y = (x + 1).exp().exp()  # each exponential keeps its own result, the sum nothing
    assert live.now == kept * 400 and y.requires_grad == grad
    assert round(found["both"] * memory.GIB) == 3 * 400


def test_an_sdxl_edit_fits_16_gib_with_low_memory_and_not_without():
    """Half precision, 1024 px, profile "reference"; README states these figures."""
    plain, low = (memory.count("sdxl", profile("reference"), low_memory=low) for low in (False, True))
    stages = ("encode", "fine-tune", "drag", "denoise", "decode")
    assert {name: round(plain[name], 1) for name in stages} == {
        "encode": 10.7, "fine-tune": 37.7, "drag": 16.0, "denoise": 11.1, "decode": 14.0,
    }  # fmt: skip
    assert {name: round(low[name], 1) for name in stages} == {
        "encode": 10.7, "fine-tune": 10.6, "drag": 10.6, "denoise": 10.1, "decode": 12.9,
    }  # fmt: skip
    assert round(sum(gib for name, gib in low.items() if name.startswith("weights")), 1) == 9.9
