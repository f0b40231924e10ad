"""The clay world: the same seed gives the same bits, nothing floats, the truth is true."""

from dataclasses import replace

import numpy as np
import pytest

from dragnb.clay import heldout
from dragnb.clay.kinds import FAMILIES, POSES
from dragnb.clay.oracle import locate, places
from dragnb.clay.scene import KINDS, RESERVED_SEED, Scene, sample
from dragnb.clay.solids import Solid, front, normals, rotation
from dragnb.clay.tasks import EDITS, MAX_DRAG, MIN_DRAG, known, task, tasks
from dragnb.clay.truth import flow, grow, moved, place_of
from dragnb.errors import InputError
from dragnb.task import DragTask


def test_there_are_at_least_ten_kinds_in_four_families():
    assert len(KINDS) >= 10 and len(FAMILIES) == 4 and {*KINDS, *heldout.POSES} == {*POSES} == {*EDITS}


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_picture():
    once, again, other = sample(7).picture(64), sample(7).picture(64), sample(8).picture(64)
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_at_the_ends_of_every_pose_parameter(kind):
    scene = sample(3, kind)
    pictures = [scene.posed(**{k: v}).picture(64) for k, bounds in POSES[kind].items() for v in bounds]
    assert all(p.shape == (64, 64, 3) and p.dtype == np.uint8 for p in pictures)
    for low, high in zip(pictures[::2], pictures[1::2], strict=True):
        assert not np.array_equal(low, high), "a pose parameter that moves nothing"


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "hills"])
def test_nothing_floats_all_solids_hang_together_in_every_pose(kind):
    for seed in range(6):
        _, part = sample(seed, kind).trace(96)
        solid = grow(part >= 0, 1)
        seen = np.zeros_like(solid)
        seen[tuple(np.argwhere(solid)[0])] = True
        for _ in range(400):
            wider = grow(seen, 1) & solid
            if (wider == seen).all():
                break
            seen = wider
        assert (seen == solid).all(), f"{kind}, seed {seed}: {(solid & ~seen).sum()} pixels hang in the air"


def test_a_pose_outside_its_bounds_is_refused_by_name():
    with pytest.raises(InputError, match=r"pose\['yaw'\] = 3.0 of a cat must lie in \[-0.6, 0.6\]"):
        sample(0, "cat").posed(yaw=3.0)
    with pytest.raises(InputError, match="a car has no 'ear'"):
        sample(0, "car").posed(ear=1.0)
    with pytest.raises(InputError, match="'horse' is not in the clay world; choose one of cat"):
        sample(0, "horse")


def test_captions_name_the_look_and_never_the_pose():
    scene = sample(5, "cat")
    assert scene.caption == scene.posed(yaw=0.5).caption
    assert scene.kind in scene.caption and scene.color in scene.caption


SHAPES = [
    ("ellipsoid", 0.0, (-1, 1)),
    ("ellipsoid", 0.0, (-1, 0.1)),
    ("frustum", 0.0, (-1, 1)),
    ("frustum", 0.6, (-1, 1)),
    ("box", 0.0, (-1, 1)),
]


@pytest.mark.parametrize("shape,taper,clip", SHAPES)
def test_rays_meet_a_solid_exactly_where_its_inside_begins(shape, taper, clip):
    centre, turned, radii = np.array([0.1, -0.2, 0.3]), rotation(0.4, 0.3, -0.5), np.array([0.5, 0.4, 0.3])
    s = Solid("s", centre, turned, radii, (1, 0, 0), shape, clip, taper)

    def inside(x, y, z):
        p = s.local(x, y, z)
        held = clip[0] <= p[1] <= clip[1]
        if shape == "ellipsoid":
            return held and p[0] ** 2 + p[1] ** 2 + p[2] ** 2 <= 1
        if shape == "frustum":
            return held and p[0] ** 2 + p[2] ** 2 <= (1 + taper * p[1]) ** 2
        return held and abs(p[0]) <= 1 and abs(p[2]) <= 1

    for x, y in np.random.default_rng(0).uniform(-0.6, 0.6, (40, 2)):
        z = float(front(s, np.array([x]), np.array([y]))[0])
        first = next((z for z in np.arange(1.6, -1.2, -0.004) if inside(x, y, z)), -np.inf)
        assert z == first == -np.inf or abs(z - first) < 0.005
        if np.isfinite(z):
            n = normals(s, np.array([x]), np.array([y]), np.array([z]))[:, 0]
            assert n[2] > 0 and abs(np.linalg.norm(n) - 1) < 1e-5, "a seen surface faces the viewer"


def test_the_flow_to_the_same_pose_stays_and_everything_stays_visible():
    scene = sample(1, "bear")
    still = flow(scene, scene, 64)
    here = np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1)
    assert np.abs(still.xy - here).max() < 1e-3 and still.visible.all()


def test_a_sideways_move_shifts_every_solid_point_by_the_same_amount():
    scene = sample(1, "tree").posed(x=0.0)
    there = flow(scene, scene.posed(x=0.125), 64)  # an eighth of half the picture's width: 4 of 64 px
    shift = (there.xy - np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1))[there.solid]
    assert np.abs(shift - (4, 0)).max() < 1e-3


def test_surface_points_that_stay_visible_keep_their_part_and_look_alike():
    clay = task(700_001, "cat", "turn")
    truth, parts_after = clay.flow, clay.after.trace()[1]
    iy, ix = np.nonzero(truth.solid & truth.visible)
    x, y = np.rint(truth.xy[iy, ix]).astype(int).T
    assert (parts_after[y, x] == clay.before.trace()[1][iy, ix]).all()
    difference = np.abs(clay.task.image[iy, ix].astype(int) - clay.picture_after[y, x])
    assert np.median(difference) < 12, "only light and antialiasing may change"


def test_handle_and_target_are_the_same_surface_point_seen_before_and_after():
    for clay in tasks(12, seed=700_100):
        (hx, hy), (tx, ty) = np.rint(clay.task.handles[0]).astype(int), clay.task.targets[0]
        assert np.hypot(*(clay.flow.xy[hy, hx] - (tx, ty))) < 2.5, clay.task.name
        assert MIN_DRAG <= np.hypot(*(clay.task.handles[0] - clay.task.targets[0])) <= MAX_DRAG
        assert clay.task.mask[hy, hx] and not clay.task.warnings()


def test_the_mask_holds_every_pixel_that_changes():
    clay = task(700_002, "lamp", "bend")
    changed = np.abs(clay.task.image.astype(int) - clay.picture_after).max(-1) > 16
    assert changed.any() and not (changed & ~clay.task.mask).any()
    assert np.array_equal(moved(clay.before, clay.after), clay.task.mask)


def test_the_oracle_reads_the_true_picture_as_arrived_and_the_first_one_as_unmoved():
    clay = task(700_003, "flower", "bend")
    half = {clay.parameter: (clay.before.pose[clay.parameter] + clay.after.pose[clay.parameter]) / 2}
    midway = clay.before.posed(**half)
    assert locate(clay, clay.picture_after).moved == pytest.approx(1, abs=0.03)
    assert locate(clay, clay.task.image).moved == pytest.approx(0, abs=0.03)
    assert locate(clay, midway.picture()).value == pytest.approx(half[clay.parameter], abs=0.02)
    assert locate(clay, clay.picture_after).distance < 1.5


def test_the_oracle_is_not_fooled_by_blur_and_noise():
    clay = task(700_004, "rabbit", "turn")
    worn = clay.picture_after.astype(float)
    worn = sum(np.roll(worn, (dy, dx), (0, 1)) for dy in (-2, 0, 2) for dx in (-2, 0, 2)) / 9
    worn += np.random.default_rng(0).normal(0, 12, worn.shape)
    assert locate(clay, worn.clip(0, 255).astype(np.uint8)).moved == pytest.approx(1, abs=0.12)


def test_tasks_used_for_tuning_stay_clear_of_training_and_of_the_reserved_seeds():
    from dragnb.clay.training.data import HELDOUT_SEED, RECIPES

    seeds = [clay.seed for clay in tasks(3)]
    assert all(max(r.pictures for r in RECIPES.values()) < HELDOUT_SEED <= s < RESERVED_SEED for s in seeds)


def test_an_edit_the_kind_does_not_know_is_refused_with_those_it_knows():
    with pytest.raises(
        InputError, match="'fly' is not known for kind 'boat'; choose one of turn, stretch, move"
    ):
        task(1, "boat", "fly")


def test_a_point_of_a_part_lies_where_the_part_is_drawn():
    scene = sample(4, "hills")
    (x, y), depth = place_of(scene, "sun", (0, 0, 1))
    seen, parts = scene.trace()
    assert scene.solids[parts[round(y), round(x)]].name == "sun"
    assert abs(seen[round(y), round(x)] - depth) < 0.01


def test_a_scene_of_an_unknown_kind_cannot_be_made():
    with pytest.raises(InputError, match="kind: 'cow'"):
        Scene("cow", "red", "blue", "blue", "green", 1.0, {})


def test_the_oracle_places_every_pair_of_a_task():
    clay = task(830_002, "rabbit", "move", pairs=3)
    there, here = places(clay, clay.after), places(clay, clay.before)
    assert np.abs(there - clay.task.targets).max() < 0.01 and np.abs(here - clay.task.handles).max() < 0.01
    true, still = locate(clay, clay.picture_after), locate(clay, clay.task.image)
    assert true.distances.shape == (3,) and true.distances.max() < 1.5
    lengths = np.hypot(*(clay.task.targets - clay.task.handles).T)
    assert still.distances == pytest.approx(lengths, abs=1)
    assert still.distance == pytest.approx(still.distances.mean())
    assert true.moved == pytest.approx(1, abs=0.03) and still.moved == pytest.approx(0, abs=0.03)


def test_a_drag_file_of_this_world_is_known_again_by_its_name_if_it_is_that_task(tmp_path):
    drawn = task(831_003, "rabbit", "stretch")
    loaded = DragTask.load(drawn.task.save(tmp_path / "drag"))

    assert (known(loaded).picture_after == drawn.picture_after).all()
    rounded = replace(loaded, handles=loaded.handles.round(), targets=loaded.targets.round())
    assert known(rounded) is not None
    for other in (
        replace(loaded, name="a cat"),
        replace(loaded, name="rabbit-stretch-831004"),
        replace(loaded, name="rabbit-fly-831003"),
        replace(loaded, image=255 - loaded.image),
        replace(loaded, targets=loaded.targets + 2),
    ):
        assert known(other) is None, other.name
