"""States of images: read once, kept by what a file holds, and broken files counted and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from coopgen_jax.data import image_states as module
from coopgen_jax.data.image_states import _Kept, _keys, open_image, read_image_states
from coopgen_jax.errors import UserError
from coopgen_jax.models.efficientnet import EfficientNetConfig, Stage, efficientnet_shapes
from coopgen_jax.models.pixels import PixelConfig, pixels_of
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone, image_states

TINY = EfficientNetConfig(stem=3, stages=(Stage(1, 3, 2, 1, 4),), width=6, classes=2, image_size=8)


def make_backbone(sha256="a", size=8):
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        values = rng.normal(size=leaf.shape)
        positive = "variance" in str(path[-1])
        return jnp.asarray(np.abs(values) if positive else values, jnp.float32)

    params = jax.tree_util.tree_map_with_path(drawn, efficientnet_shapes(TINY))
    return LoadedBackbone(TINY, params, PixelConfig(size), "tiny", sha256, None)


@pytest.fixture(scope="module")
def backbone():
    return make_backbone()


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(7):
        colours = rng.integers(0, 256, (10 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(7)]


@pytest.fixture
def reads(monkeypatch):
    """How many images are looked at."""
    seen = []

    def counted(config, image, **further):
        seen.append(image.size)
        return pixels_of(config, image, **further)

    monkeypatch.setattr(module, "pixels_of", counted)
    return seen


def test_states_are_those_of_the_network(backbone, paths):
    found = read_image_states(backbone, paths, batch=3)
    pixels = np.stack([pixels_of(backbone.pixels, open_image(path)) for path in paths])
    wanted = image_states(backbone.config, backbone.params, jnp.asarray(pixels))
    np.testing.assert_allclose(found.states, wanted, rtol=1e-5, atol=1e-5)
    assert found.states.dtype == np.float32 and found.states.std(axis=0).max() > 0.01
    assert found.places.tolist() == list(range(7)) and found.notes == []


def test_an_image_is_read_once_under_whatever_name_and_in_any_list(
    backbone, paths, reads, tmp_path
):
    reported = []
    cache = tmp_path / "cache"
    first = read_image_states(
        backbone, paths[:5], folder=cache, batch=2, listener=lambda *both: reported.append(both)
    )
    assert len(reads) == 5 and reported == [(2, 5), (4, 5), (5, 5)]
    copy = paths[0].with_name("copy.png")
    copy.write_bytes(paths[3].read_bytes())
    again = read_image_states(backbone, [copy, paths[6], paths[1]], folder=cache, batch=2)
    assert len(reads) == 6
    np.testing.assert_array_equal(again.states[[0, 2]], first.states[[3, 1]])
    # Another backbone, or another preparation, knows none of them.
    for other in (make_backbone("b"), make_backbone(size=9)):
        before = len(reads)
        read_image_states(other, paths[:2], folder=cache, batch=2)
        assert len(reads) == before + 2


def test_a_reading_that_was_broken_off_goes_on(backbone, paths, reads, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 2)

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_image_states(backbone, paths, folder=tmp_path / "cache", batch=1, listener=stop)
    assert len(reads) == 5
    whole = read_image_states(backbone, paths, folder=tmp_path / "cache", batch=1)
    assert len(reads) == 5 + 3
    np.testing.assert_allclose(whole.states, read_image_states(backbone, paths).states, rtol=1e-5)


def test_a_damaged_file_of_states_is_computed_again(backbone, paths, reads, tmp_path):
    whole = read_image_states(backbone, paths, folder=tmp_path)
    (kept,) = tmp_path.glob("images-*/*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-40])
    again = read_image_states(backbone, paths, folder=tmp_path)
    assert len(reads) == 14
    np.testing.assert_array_equal(again.states, whole.states)


def test_broken_files_are_left_out_counted_and_named(backbone, paths):
    paths[1].write_bytes(paths[1].read_bytes()[:-60])
    paths[2].write_bytes(b"<html>")
    paths[4].unlink()
    found = read_image_states(backbone, [*paths, paths[0].parent])
    assert found.places.tolist() == [0, 3, 5, 6] and found.states.shape == (4, 6)
    unreadable = "it is not a picture that can be read"
    assert found.broken[:3] == (
        f"1.png: {unreadable}",
        f"2.png: {unreadable}",
        "4.png: there is no such file",
    )
    assert found.broken[3] == "images: Is a directory"
    (note,) = found.notes
    assert note.startswith("4 images left out (1.png: ") and note.endswith(", ...)")


def test_copies_of_a_broken_file_are_all_named(backbone, paths):
    for path in paths[:3]:
        path.write_bytes(b"")
    found = read_image_states(backbone, paths)
    assert found.places.tolist() == [3, 4, 5, 6]
    assert [told.split(":")[0] for told in found.broken] == ["0.png", "1.png", "2.png"]


def test_a_damaged_exif_entry_is_no_damage_to_the_picture(backbone, tmp_path):
    path, plain = tmp_path / "odd.png", tmp_path / "plain.png"
    image = Image.fromarray(np.arange(4800, dtype=np.uint8).reshape(40, 40, 3))
    image.save(path, exif=b"garbage!!")
    image.save(plain)
    found = read_image_states(backbone, [path, plain])
    assert found.broken == ()
    np.testing.assert_array_equal(found.states[0], found.states[1])


def test_a_strip_is_named_and_not_blown_up(backbone, paths, tmp_path):
    strip = tmp_path / "strip.png"
    Image.new("RGB", (1, 60_000)).save(strip)
    found = read_image_states(backbone, [strip, paths[0]])
    assert found.places.tolist() == [1] and found.broken[0].startswith("strip.png")


def test_other_images_of_the_folder_are_not_kept_in_memory(backbone, paths, tmp_path):
    read_image_states(backbone, paths, folder=tmp_path / "states")
    wanted = frozenset(_keys(paths[:2])[0].values())
    assert _Kept(tmp_path / "states", backbone, wanted).states.keys() == wanted


def test_nothing_but_broken_files_gives_an_empty_table(backbone, tmp_path):
    found = read_image_states(backbone, [tmp_path / "nothing.jpg"])
    assert found.states.shape == (0, 6) and len(found.notes) == 1


def test_one_picture_that_cannot_be_read_is_an_error(paths):
    with pytest.raises(UserError, match=r"missing\.png is not a file"):
        open_image(paths[0].with_name("missing.png"))
    paths[0].write_bytes(paths[0].read_bytes()[:-60])
    with pytest.raises(UserError, match=r"0\.png is not a picture that can be read \(") as refused:
        open_image(paths[0])
    assert "\n" not in str(refused.value)


def test_a_folder_that_cannot_be_written_is_refused(backbone, paths):
    with pytest.raises(UserError, match="cannot be kept in"):
        read_image_states(backbone, paths, folder=paths[0])


def test_what_is_wrong_with_a_picture_is_said(backbone, paths, tmp_path, monkeypatch):
    Image.new("F", (8, 8)).save(tmp_path / "grey.tiff")
    Image.new("RGB", (1, 60)).save(tmp_path / "strip.png")
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    Image.new("RGB", (50, 50)).save(tmp_path / "larger.png")
    # Beyond the limit Pillow warns, and beyond twice as much it refuses; warnings are errors here.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)
    names = ("grey.tiff", "strip.png", "large.png", "larger.png")
    found = read_image_states(backbone, [*(tmp_path / name for name in names), paths[0]])
    assert found.places.tolist() == [4]
    assert [told.partition(":")[0] for told in found.broken] == list(names)
    reasons = ("grey values have 32 bits", "is a strip", *["it has more than 800 pixels"] * 2)
    assert all(reason in told for reason, told in zip(reasons, found.broken, strict=True))
    with pytest.raises(UserError, match=r"large\.png has more than 800 pixels: make it smaller"):
        open_image(tmp_path / "large.png")


def test_states_of_former_pixels_are_made_anew(backbone, paths, reads, tmp_path, monkeypatch):
    read_image_states(backbone, paths[:2], folder=tmp_path)
    monkeypatch.setattr(module, "VERSION", 0)
    read_image_states(backbone, paths[:2], folder=tmp_path)
    assert len(reads) == 4
