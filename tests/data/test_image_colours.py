"""Pictures in bytes become the pixels that they would have become without."""

from dataclasses import replace

import numpy as np

from coopgen_jax.data.image_colours import colours_in, normalised, read_image_colours
from coopgen_jax.files import sha256_of
from coopgen_jax.models.pixels import PixelConfig, pixels_of
from tests.models.clip_files import picture

CONFIG = PixelConfig(size=9, shortest=11, mean=(0.1, 0.2, 0.3), deviation=(0.4, 0.5, 0.6))


def test_bytes_lose_nothing():
    for config in (CONFIG, replace(CONFIG, shortest=None)):
        colours = colours_in(config, picture(0, 40, 23))
        assert colours.dtype == np.uint8 and colours.shape == (9, 9, 3) and np.ptp(colours) > 50
        pixels = np.asarray(normalised(config, colours[None]))[0]
        np.testing.assert_allclose(pixels, pixels_of(config, picture(0, 40, 23)), atol=1e-6)


def test_files_that_are_no_pictures_are_left_out_and_named(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png", "d.png")]
    picture(0, 20, 20).save(paths[0])
    paths[1].write_bytes(b"<html>")
    picture(1, 30, 10).save(paths[3])
    seen = []
    found = read_image_colours(CONFIG, paths, listener=lambda done, total: seen.append(done))
    assert found.places.tolist() == [0, 3] and seen == [1, 2, 3, 4]
    np.testing.assert_array_equal(found.colours[1], colours_in(CONFIG, picture(1, 30, 10)))
    assert found.keys == (sha256_of(paths[0]), sha256_of(paths[3]))
    (note,) = found.notes
    assert note == (
        "2 images left out (b.png: it is not a picture that can be read, c.png: there is no such "
        "file)"
    )
