"""The learned choice similarity and mixtures of choice models, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from services.common.weights import compact_file
from services.embedder.choice import ChoiceSimilarity
from services.embedder.ranking import choice_log_likelihood, mixed
from warmer.errors import DataLoss


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_probes_give_the_similarity_of_what_the_map_predicts():
    rng = np.random.default_rng(0)
    weight, mean = rng.normal(size=(16, 24)).astype(np.float32), rng.normal(size=24).astype(np.float32)
    similarity = ChoiceSimilarity(weight @ weight.T, weight @ mean, float(mean @ mean))
    displayed, images = unit(rng, 3, 16), unit(rng, 50, 16)
    probes, offsets = similarity.probes(displayed)
    got = probes @ images.T + offsets[:, None]
    predicted = lambda v: v @ weight + mean  # noqa: E731
    assert np.allclose(got, predicted(displayed) @ predicted(images).T, atol=1e-3)


def test_the_shipped_similarity_fits_the_shipped_heads(tmp_path):
    heads = compact_file("embedder/heads.safetensors")
    similarity = ChoiceSimilarity.load(compact_file("embedder/choice.safetensors"), heads)
    assert similarity.matrix.shape == (256, 256)
    assert np.allclose(similarity.matrix, similarity.matrix.T, atol=1e-5)
    other = tmp_path / "heads.safetensors"
    other.write_bytes(b"other heads")
    with pytest.raises(DataLoss) as caught:
        ChoiceSimilarity.load(compact_file("embedder/choice.safetensors"), other)
    assert caught.value.reason == "MODEL_DAMAGED"


def test_mixture_is_the_probability_under_either_model():
    rng = np.random.default_rng(1)
    logs = rng.normal(size=(2, 7)).astype(np.float32) * 5
    wanted = np.log(0.25 * np.exp(logs[0]) + 0.75 * np.exp(logs[1]))
    assert np.allclose(mixed(logs, [1, 3]), wanted, atol=1e-5)
    assert np.allclose(mixed(logs[:1], [4]), logs[0])
    assert np.isfinite(mixed(np.full((2, 3), -1e4, np.float32), [1, 1])).all()


def test_a_mixture_learns_by_what_the_person_chooses():
    """Somebody who chooses by the first half of the vectors is recognised after some choices."""
    rng = np.random.default_rng(2)
    images = unit(rng, 200, 8)
    by_first, by_second = images[:, :4] @ images[:, :4].T, images[:, 4:] @ images[:, 4:].T
    target, logs = 17, np.zeros((2, 200), np.float32)
    for _ in range(12):
        shown = rng.choice(np.delete(np.arange(200), target), 8, replace=False)
        chosen = shown[np.argmax(by_first[shown, target])]
        rest = shown[shown != chosen]
        for k, s in enumerate((by_first, by_second)):
            logs[k] += choice_log_likelihood(s[[chosen]], s[:0], s[rest], temperature=0.1, lapse=0.1)
    both = mixed(logs, [0.5, 0.5])
    assert (both > both[target]).sum() <= (logs[0] > logs[0][target]).sum() + 1
    assert (both > both[target]).sum() < (logs[1] > logs[1][target]).sum()
