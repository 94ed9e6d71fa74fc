"""A cache goes on from disk as if it had never left memory; damage is noticed."""

import dataclasses
import json

import pytest
import torch

from reformer import Local
from reformer.generation.extend import extend, new_cache
from reformer.nn.cache import CacheError
from reformer.nn.cache_file import load_cache, save_cache

from .models import LAYERS, make_model, random_ids


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_it_goes_on_as_it_would_have(layers, tmp_path):
    model = make_model(layers)
    cache = new_cache(model, 2)
    extend(model, [random_ids(290, 1), random_ids(7, 2)], cache)
    save_cache(cache, tmp_path)
    again = load_cache(tmp_path, model.config)
    assert [row.input_ids for row in again.rows] == [row.input_ids for row in cache.rows]
    for cut in (lambda c: None, lambda c: c.truncate([250, 5])):
        cut(cache), cut(again)
        more = [random_ids(30, 3), random_ids(3, 4)]
        assert torch.equal(extend(model, more, cache), extend(model, more, again))


def test_a_forgotten_past_stays_forgotten(tmp_path):
    model = make_model((Local(window_length=16),), max_length=40000, slice_length=40000)
    cache = new_cache(model, undo_length=10)
    for _ in range(5):
        extend(model, [random_ids(5000)], cache)
    assert cache.rows[0].layers[0].first > 0
    save_cache(cache, tmp_path)
    again = load_cache(tmp_path, model.config)
    assert torch.equal(extend(model, [[1]], cache), extend(model, [[1]], again))


@pytest.fixture
def saved(tmp_path):
    model = make_model(LAYERS["mixed"])
    cache = new_cache(model)
    extend(model, [random_ids(20)], cache)
    save_cache(cache, tmp_path)
    return tmp_path, model.config


def test_every_flipped_bit_is_noticed(saved):
    folder, config = saved
    path = folder / "cache.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 997):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CacheError, match="checksum"):
            load_cache(folder, config)


def test_another_config_is_refused(saved):
    folder, config = saved
    with pytest.raises(CacheError, match="another model"):
        load_cache(folder, dataclasses.replace(config, seed=99))
    load_cache(folder, dataclasses.replace(config, slice_length=5))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": 2},
        {"format": 4},
        {"checksum": "0"},
        {"undo_length": "9"},
        {"undo_length": -1},
    ],
    ids=str,
)
def test_a_wrong_description_is_refused(saved, change):
    folder, config = saved
    path = folder / "cache.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CacheError):
        load_cache(folder, config)


def test_a_folder_without_a_cache_is_refused(tmp_path):
    with pytest.raises(CacheError, match=r"no cache\.json"):
        load_cache(tmp_path, make_model(LAYERS["lsh"]).config)
