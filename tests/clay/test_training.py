"""Training the bundled model: exact resume, a folder plain diffusers reads, fresh pictures, and what is shipped."""

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dragnb import sd
from dragnb.checkpoints import BUNDLED
from dragnb.clay.scene import sample
from dragnb.clay.training import data, gpu, loop, measure, steps
from dragnb.clay.training.__main__ import changed, main
from dragnb.clay.training.data import RECIPES
from dragnb.clay.training.optimizers import Optimizers
from dragnb.clay.training.parts import SIZES, build, build_tokenizer, build_vae, grown
from dragnb.errors import InputError, WriteError

SMOKE = RECIPES["smoke"]
SHIPPED = Path(__file__).parents[2] / "data" / "models" / "clay"


def weights(out, name):
    return torch.load(out / f"{name}.pt", weights_only=True)["averages"]


def same(a, b):
    return all(torch.equal(a[m][k], b[m][k]) for m in a for k in a[m])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole smoke training, uninterrupted."""
    out = tmp_path_factory.mktemp("whole")
    for part in (loop.train_autoencoder, loop.train_unet):
        for _ in part(SMOKE, out, "cpu"):
            pass
    return out


def test_a_training_left_between_checkpoints_resumes_to_the_same_bits(finished, tmp_path):
    for part, name in ((loop.train_autoencoder, "autoencoder"), (loop.train_unet, "unet")):
        steps = part(SMOKE, tmp_path, "cpu")
        assert [next(steps)[0] for _ in range(3)] == [1, 2, 3]  # saved at 2, lost from there
        steps.close()
        assert [step for step, *_ in part(SMOKE, tmp_path, "cpu")] == [3, 4, 5, 6]
        assert same(weights(tmp_path, name), weights(finished, name)), name


def test_a_killed_training_process_resumes_to_the_same_bits(finished, tmp_path):
    command = [
        sys.executable,
        "-m",
        "dragnb.clay.training",
        "autoencoder",
        "--recipe",
        "smoke",
        "--out",
        str(tmp_path),
    ]
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(torch.get_num_threads()))
    process = subprocess.Popen([*command, "--set", "vae_steps=100000"], env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "autoencoder.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = loop.saved_step(tmp_path, "autoencoder")
    longer = replace(
        SMOKE, vae_steps=reached + 3, decay_from=1.0
    )  # at full rate, so that lengths do not matter
    whole = tmp_path / "whole"
    whole.mkdir()
    resumed = [step for step, *_ in loop.train_autoencoder(longer, tmp_path, "cpu")]
    assert resumed == [reached + 1, reached + 2, reached + 3]
    for _ in loop.train_autoencoder(longer, whole, "cpu"):
        pass
    assert same(weights(tmp_path, "autoencoder"), weights(whole, "autoencoder"))


def test_fresh_pictures_are_drawn_where_the_recipe_keeps_none(tmp_path):
    recipe = replace(SMOKE, pictures=0, vae_steps=2, unet_steps=2)
    assert [s for s, *_ in loop.train_autoencoder(recipe, tmp_path, "cpu")] == [1, 2]
    assert [s for s, *_ in loop.train_unet(recipe, tmp_path, "cpu")] == [1, 2]
    assert not list(tmp_path.glob("pictures*"))


def test_the_exported_folder_is_read_by_plain_diffusers_and_samples_with_guidance(finished, tmp_path):
    from diffusers import StableDiffusionPipeline

    folder = loop.export(SMOKE, finished, tmp_path / "model")
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = pipe(
        "a red cat", num_inference_steps=2, guidance_scale=3.0, generator=generator, output_type="np"
    )
    assert picture.images.shape == (1, 256, 256, 3) and np.isfinite(picture.images).all()
    latents = torch.from_numpy(np.load(next(finished.glob("latents-*.npy"))))
    assert (latents * pipe.vae.config.scaling_factor).std() == pytest.approx(1, rel=1e-3)
    assert json.loads((folder / "training.json").read_text())["unet"]["steps"] == SMOKE.unet_steps
    assert sd.load(str(folder)).side == 256


def test_export_names_no_folder_and_the_bundled_model_stays_as_it_is(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    shipped = tmp_path / "data" / "models" / "clay"
    shipped.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    main(["export", "--recipe", "smoke", "--out", "run"])
    assert (tmp_path / "run" / "model" / "model_index.json").exists() and not list(shipped.iterdir())


def test_export_keeps_what_lies_beside_the_weights(finished, tmp_path):
    folder = loop.export(SMOKE, finished, tmp_path / "model")
    (folder / "README.md").write_text("the card")
    loop.export(SMOKE, finished, folder)
    assert (folder / "README.md").read_text() == "the card"
    assert not list(tmp_path.glob(".model-*")), "nothing half-written is left"


def test_an_adopted_model_is_trained_on_from_its_own_weights(finished, tmp_path):
    folder = loop.export(SMOKE, finished, tmp_path / "model")
    loop.adopt(SMOKE, tmp_path, folder)
    (step, loss, _), *_ = loop.train_unet(SMOKE, tmp_path, "cpu")
    adopted, origin = weights(tmp_path, "autoencoder"), weights(finished, "autoencoder")
    assert step == 1 and loss > 0
    assert all(torch.allclose(adopted["vae"][k], origin["vae"][k], atol=2e-3) for k in origin["vae"])
    before = json.loads((folder / "training.json").read_text())
    after = json.loads((loop.export(SMOKE, tmp_path, tmp_path / "again") / "training.json").read_text())
    factor = json.loads((folder / "vae/config.json").read_text())["scaling_factor"]
    assert after["before"] == before | {"scaling_factor": factor}
    assert after["autoencoder"] == before["autoencoder"]
    with pytest.raises(InputError, match="holds a training of its own"):
        loop.adopt(SMOKE, tmp_path, folder)


def test_a_larger_decoder_begins_with_what_the_smaller_one_computes():
    torch.manual_seed(0)
    smaller, layout = build_vae("smoke").decoder, dict(SIZES["smoke"], decoder=12, vae_decoder=(3, 1, 2, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "larger", layout)
        larger = build_vae("larger").decoder
    z = torch.randn(2, 4, 9, 7)
    with torch.no_grad():
        assert not torch.allclose(larger(z), smaller(z), atol=1e-3)
        assert torch.equal(grown(smaller, larger)(z), smaller(z))
    larger(z).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in larger.layers[0].parameters())


def test_a_decoder_only_grows():
    with pytest.raises(ValueError, match="may only"):
        grown(build_vae("clay").decoder, build_vae("smoke").decoder)


def test_the_decoder_alone_is_trained_and_latents_stay_what_they_were(finished, tmp_path):
    folder = loop.export(SMOKE, finished, tmp_path / "model")
    recipe = replace(SMOKE, encoder=False)
    loop.adopt(recipe, tmp_path, folder)
    before = weights(tmp_path, "autoencoder")["vae"]
    assert [step for step, *_ in loop.train_autoencoder(recipe, tmp_path, "cpu")] == [1, 2, 3, 4, 5, 6]
    after = weights(tmp_path, "autoencoder")["vae"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)


def test_crops_are_aimed_at_what_is_not_flat():
    pictures = np.zeros((40, 256, 256, 3), np.uint8)
    pictures[:, 200:216, 24:40] = np.arange(16, dtype=np.uint8)[:, None, None] * 16
    seen = loop.crops(pictures, 96, torch.Generator().manual_seed(0))
    again = loop.crops(pictures, 96, torch.Generator().manual_seed(0))
    assert seen.shape == (40, 96, 96, 3) and (seen == again).all()
    hit = (seen.max((1, 2, 3)) > 0).reshape(10, 4)
    assert hit[:, 1:].mean() > hit[:, 0].mean(), "three of four are aimed, the fourth is taken at random"


def test_a_model_of_the_first_world_is_trained_on_in_the_second(finished, tmp_path):
    second, first = replace(SMOKE, world=2, older=True), loop.export(SMOKE, finished, tmp_path / "model")
    loop.adopt(second, tmp_path, first)
    (step, loss, _), *_ = loop.train_unet(second, tmp_path, "cpu")
    folder = loop.export(second, tmp_path, tmp_path / "again")
    vocabulary = json.loads((folder / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    assert step == 1 and loss > 0 and (tmp_path / "pictures-24-world1-2.npy").exists()
    factors = [json.loads((at / "vae/config.json").read_text())["scaling_factor"] for at in (first, folder)]
    assert factors[0] == factors[1], "its U-Net knows latents of this scale"
    drawn = np.load(tmp_path / "pictures-24-world1-2.npy")
    for seed, version in ((4, 1), (5, 2)):
        np.testing.assert_array_equal(drawn[seed], sample(seed, version=version).picture())
    assert {"dotted</w>", "an</w>"} <= set(vocabulary) and sd.load(str(folder)).side == 256


def test_the_second_world_only_adds_words_behind_those_of_the_first():
    first, second = build_tokenizer().get_vocab(), build_tokenizer(2).get_vocab()
    assert {k: second[k] for k in first} == first and {"an</w>", "with</w>", "striped</w>"} <= set(
        second
    ) - set(first)


def test_the_tokenizer_is_the_same_in_every_process():
    code = (
        "from dragnb.clay.training.parts import build_tokenizer as b; print(sorted(b().get_vocab().items()))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in "ab"
    ]
    assert runs[0].stdout == runs[1].stdout and "cat</w>" in runs[0].stdout


def test_any_text_can_be_tokenised_and_captions_take_one_token_a_word():
    tokenizer = build("smoke").tokenizer
    ids = tokenizer("a red cat on green ground under a blue sky").input_ids
    assert len(ids) == 10 + 2
    other = tokenizer("Zwölf Boxkämpfer, 12 & 300!", max_length=77, truncation=True).input_ids
    assert tokenizer.unk_token_id not in other[1:-1] or tokenizer.unk_token_id == tokenizer.eos_token_id


def test_an_unknown_number_of_the_recipe_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["pictures", "--set", "batchsize=3"])
    assert "a recipe has no number 'batchsize'" in capsys.readouterr().err


def test_a_switch_of_the_recipe_is_set_by_word_or_figure(capsys):
    for text, value in (("1", True), ("true", True), ("0", False), ("False", False)):
        assert changed(SMOKE, f"autocast={text}").autocast is value
    with pytest.raises(SystemExit):
        main(["pictures", "--set", "autocast=maybe"])
    assert "--set autocast=maybe: must be one of 0, false, 1, true" in capsys.readouterr().err


def test_autocast_trains_in_bfloat16_on_the_cpu_and_stays_near_full_precision(finished, tmp_path):
    halved, tmp = replace(SMOKE, autocast=True), tmp_path / "half"
    shutil.copytree(finished, tmp, ignore=shutil.ignore_patterns("unet.pt"))
    (_, full, _), *_ = loop.train_unet(SMOKE, tmp, "cpu")
    (tmp / "unet.pt").unlink()
    (_, half, _), *_ = loop.train_unet(halved, tmp, "cpu")
    assert half != full and half == pytest.approx(full, rel=0.02)


def test_muon_moves_the_kernels_it_sees_as_matrices_and_adamw_the_rest():
    made = build("smoke")
    modules = torch.nn.ModuleDict({"unet": made.unet, "text_encoder": made.text_encoder})
    modules = modules.to(memory_format=torch.channels_last)
    optimizers = Optimizers(modules, "muon", lr=1e-3, muon_lr=0.02)
    before = {name: p.detach().clone() for name, p in modules.named_parameters()}
    for p in modules.parameters():
        p.grad = torch.randn_like(p)

    optimizers.step(0.5)

    assert all(p.grad is None for p in modules.parameters())
    off = {name: (p - before[name]).abs().max() for name, p in modules.named_parameters()}
    assert 0.9 * 5e-4 < off["unet.conv_in.weight"] < 1.1 * 5e-4, "AdamW's first step is its rate"
    assert off["unet.down_blocks.0.resnets.0.conv1.weight"] > 0 and min(off.values()) > 0
    assert len(optimizers.matrices) > 50


@pytest.mark.parametrize("fault", ["an error", "too long", None])
def test_a_unet_that_cannot_be_compiled_in_time_trains_as_it_is(fault, monkeypatch):
    def compiler(unet):
        def call(*args, **named):
            if fault == "an error":
                raise ValueError("no such kernel")
            time.sleep(600 if fault else 0)
            return unet(*args, **named)

        return call

    monkeypatch.setattr(torch, "compile", compiler)
    made, said = build("smoke"), []
    modules = torch.nn.ModuleDict({"unet": made.unet, "text_encoder": made.text_encoder})
    run = SimpleNamespace(
        plan=gpu.Plan(seconds=10 if fault else 6000, compile=True, compile_until=0.1, unet_batch=2),
        cuda=True, device=torch.device("cpu"),
        clock=lambda: 0.0, half=contextlib.nullcontext, say=lambda *words: said.append(" ".join(words)),
    )  # fmt: skip
    backward = steps.Backward(run, modules, "epsilon")
    latents = steps.Latents(run, made.tokenizer, shelf=None)
    backward.compile(latents.blank())

    assert all(p.grad is None for p in modules.parameters())
    assert (backward.unet is made.unet) == bool(fault)
    word = {"an error": "no such kernel", "too long": "1 s were not enough", None: "compiled"}[fault]
    assert len(said) == 1 and word in said[0]
    assert backward(*latents.batch()) > 0 and all(p.grad is not None for p in made.unet.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer,prediction", [("adamw", "epsilon"), ("muon", "both")])
def test_all_parts_are_trained_within_a_time_by_the_clock(optimizer, prediction, tmp_path, capsys):
    plan = gpu.Plan(
        seconds=60, closing=8, size="smoke", world=2, older=True, pictures=64, pool=32, workers=1, vae_batch=2,
        vae_crop=64, prediction=prediction, optimizer=optimizer, unet_batch=4, save_every=4, heldout=4,
    )  # fmt: skip
    begun = time.monotonic()
    errors = gpu.train(plan, tmp_path, "cpu")

    assert time.monotonic() - begun < 90
    lines = capsys.readouterr().out.splitlines()
    names = ["epsilon", "v_prediction"] if prediction == "both" else [prediction]
    assert list(errors) == names and "figure" in lines[-1] and "background" in lines[-1]
    for name in names:
        packed = b"".join(piece.read_bytes() for piece in sorted(tmp_path.glob(f"clay-{name}.tar.*")))
        tarfile.open(fileobj=io.BytesIO(packed)).extractall(tmp_path / name, filter="data")
        model = sd.load(str(tmp_path / name / "clay"), device="cpu")
        history = json.loads((tmp_path / name / "clay" / "training.json").read_text())
        assert model.prediction_type == name and history["unet"]["steps"] > 0
        assert history["held_out"] == errors[name] and history["recipe"]["optimizer"] == optimizer


@pytest.mark.slow
def test_a_card_goes_on_from_a_finished_model_with_its_autoencoder(finished, tmp_path):
    start, out = loop.export(SMOKE, finished, tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    plan = gpu.Plan(
        seconds=45, closing=8, size="smoke", start=str(start), first=500, world=2, older=True, pictures=32, workers=1,
        unet_batch=4, unet_lr=1e-5, save_every=4, heldout=4,
    )  # fmt: skip
    gpu.train(plan, out, "cpu")
    packed = b"".join(piece.read_bytes() for piece in sorted(out.glob("clay-epsilon.tar.*")))
    tarfile.open(fileobj=io.BytesIO(packed)).extractall(out, filter="data")

    before, after = (sd.load(str(folder), device="cpu") for folder in (start, out / "clay"))
    same_vae = (
        torch.equal(a, b) for a, b in zip(before.vae.parameters(), after.vae.parameters(), strict=True)
    )
    assert all(same_vae) and before.scaling_factor == after.scaling_factor
    off = [
        (a - b).abs().max() for a, b in zip(before.unet.parameters(), after.unet.parameters(), strict=True)
    ]
    assert 0 < max(off) < 0.05, "its weights, moved a little"
    history = json.loads((out / "clay" / "training.json").read_text())
    first = json.loads((start / "training.json").read_text())
    assert history["before"]["unet"] == first["unet"] and history["autoencoder"] == first["autoencoder"]
    assert history["unet"]["steps"] > 0 and history["recipe"]["first"] == 500


def test_a_model_of_another_kind_is_not_gone_on_from(finished, tmp_path):
    start = loop.export(SMOKE, finished, tmp_path / "model")
    for change, said in (
        ({"prediction": "v_prediction"}, "prediction: .* has 'epsilon'"),
        ({"start": str(tmp_path)}, "model: .* holds no finished model; give a folder like data/models/clay"),
        ({"size": "clay"}, "size: the unet of .* is not of size 'clay'; one of clay, wide, smoke"),
    ):
        plan = replace(gpu.Plan(size="smoke", start=str(start)), **change)
        with pytest.raises(InputError, match=said):
            gpu.train(plan, tmp_path, "cpu")


def test_pictures_are_drawn_from_a_seed_on():
    with data.Drawn(3, (1, 2), workers=1, seed=41) as drawn:
        while drawn.have < 3:
            time.sleep(0.05)
        for place, (seed, version) in enumerate(((41, 2), (42, 1), (43, 2))):
            np.testing.assert_array_equal(
                drawn.pictures(place, place + 1)[0], sample(seed, version=version).picture()
            )
        assert drawn.captions(0, 1) == [sample(41, version=2).caption]


needs_model = pytest.mark.skipif(
    not SHIPPED.exists(), reason="data/models/clay is not there: train it or fetch it"
)


@needs_model
@pytest.mark.parametrize("name", BUNDLED)
def test_a_shipped_model_is_small_and_bears_its_card(name):
    folder = SHIPPED.with_name(name)
    weights_mb = sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 2**20
    assert weights_mb <= 48
    card, found = (folder / "README.md").read_text(), json.loads((folder / "evaluation.json").read_text())
    for name in ("autoencoder_psnr", "roundtrip_psnr", "moved", "rest_psnr"):
        assert str(found["summary"][name]) in card, f"the card does not show {name}"


@needs_model
@pytest.mark.parametrize("name", BUNDLED)
def test_a_shipped_autoencoder_keeps_held_out_pictures(name):
    evaluation = json.loads((SHIPPED.with_name(name) / "evaluation.json").read_text())
    found = evaluation["summary"]["autoencoder_psnr"]
    figures = list(measure.autoencoder_psnr(sd.load(name), 12, evaluation.get("world", 1)))
    mean = {name: np.mean([figure[name] for figure in figures]) for name in ("whole", "figure", "backdrop")}
    assert mean["whole"] == pytest.approx(found, abs=1.5)
    assert mean["figure"] < mean["whole"] < mean["backdrop"], "the backdrop is nearly flat"


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes as Linux has it")
def test_a_killed_drawing_of_pictures_leaves_no_process(tmp_path):
    from hard.campaign import Child

    child = Child(data.draw_set, tmp_path / "pictures.npy", 2000, log=tmp_path / "log")
    deadline = time.monotonic() + 120
    while not child.group() and time.monotonic() < deadline:
        time.sleep(0.05)

    assert child.kill_after(0.5) and not child.left_behind() and not (tmp_path / "pictures.npy").exists()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot say that a disk is full")
def test_pictures_for_which_there_is_no_room_are_refused_before_one_is_drawn(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WriteError, match=r"pictures.npy cannot be written \(No space left on device\)"):
        data.draw_set(tmp_path / "pictures.npy", 3)
    assert not list(tmp_path.iterdir())


def test_two_trainings_in_one_folder_do_not_mix_their_steps(tmp_path):
    recipe = replace(SMOKE, vae_steps=2)
    first = loop.train_autoencoder(recipe, tmp_path, "cpu")
    next(first)
    with pytest.raises(InputError, match=r"out = .* is in use: another process trains in it; wait for it"):
        next(loop.train_autoencoder(recipe, tmp_path, "cpu"))
    list(first)
    assert list(loop.train_autoencoder(recipe, tmp_path, "cpu")) == [], "free again, and done"
