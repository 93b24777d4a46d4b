"""The benchmark of large pairs, on small ones."""

import large_pairs
import pytest

from tests.phone import save_pair


@pytest.mark.usefixtures("ray_session")
def test_a_second_call_finds_what_the_first_has_made(tmp_path):
    root, out = tmp_path / "pairs", str(tmp_path / "shards")
    for seed, name in enumerate("ab"):
        save_pair(root / "train", name, seed)
    assert large_pairs.parts(str(root))["register"] > 0
    first, again = (large_pairs.through_ray(str(root), out) for _ in range(2))
    assert first["megabytes"] == again["megabytes"] > 0
    assert again["seconds"] < first["seconds"]
