"""The nearest neighbours are scikit-learn's; queries and index may be encoded by different submodels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from lts_ray.errors import LtsRayError
from lts_ray.models.vit.vit_extract import extract_vit
from lts_ray.vision.accuracy import encoded, image_quality
from lts_ray.vision.retrieval import Distance, nearest_images, retrieve
from tests.vision.make import make_data, make_vit

SUBMODELS = ("S", "XL", "4,32,9")


@pytest.mark.parametrize(("distance", "metric"), [("cosine", "cosine"), ("l2", "euclidean")])
def test_every_pair_of_submodels_has_the_accuracy_that_scikit_learn_finds(distance: Distance, metric: str) -> None:
    model, data = make_vit(), make_data()
    found = {
        (each.query, each.index): each.accuracy
        for each in retrieve(model, data, queries=SUBMODELS, indices=SUBMODELS, distance=distance)
    }
    assert len(found) == 9
    assert len(set(found.values())) > 2
    for (query, index), accuracy in found.items():
        stored = encoded(model, data.train.pixels, model.config.submodel(index)).double().numpy()
        asked = encoded(model, data.held_out.pixels, model.config.submodel(query)).double().numpy()
        reference = KNeighborsClassifier(n_neighbors=1, metric=metric, algorithm="brute")
        reference.fit(stored, data.train.labels.numpy())
        assert accuracy == pytest.approx(reference.score(asked, data.held_out.labels.numpy()))


@given(
    queries=st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=1, max_size=6),
    index=st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=1, max_size=9),
)
def test_the_nearest_is_that_of_comparing_all_and_the_first_of_several(
    queries: list[tuple[int, int]], index: list[tuple[int, int]]
) -> None:
    found = nearest_images(torch.tensor(queries).float(), torch.tensor(index).float(), "l2").tolist()
    for place, query in zip(found, queries, strict=True):
        distances = [(query[0] - x) ** 2 + (query[1] - y) ** 2 for x, y in index]
        assert place == distances.index(min(distances))


def test_many_queries_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, index = torch.randn(50, 4, generator=generator), torch.randn(30, 4, generator=generator)
    whole = nearest_images(queries, index, "cosine")
    monkeypatch.setattr("lts_ray.vision.retrieval.SCORES_AT_ONCE", 100)
    assert torch.equal(nearest_images(queries, index, "cosine"), whole)


def test_a_query_of_the_index_finds_itself_only_if_both_are_encoded_alike() -> None:
    model, data = make_vit(), make_data()
    small, full = (encoded(model, data.train.pixels, model.config.submodel(name)) for name in ("S", "XL"))
    assert nearest_images(full, full, "cosine").tolist() == list(range(30))
    assert nearest_images(small, full, "cosine").tolist() != list(range(30))


def test_another_model_may_encode_the_index() -> None:
    model, data = make_vit(), make_data()
    other = extract_vit(model, model.config.submodel("M"))
    one = retrieve(model, data, queries=["S"], indices=["M"])
    two = retrieve(model, data, queries=["S"], indices=["XL"], index_model=other)
    assert [each.accuracy for each in one] == [each.accuracy for each in two]
    with pytest.raises(LtsRayError, match="encoded in 16 numbers, the index in 32"):
        retrieve(model, data, queries=["S"], indices=["XL"], index_model=make_vit(d_model=32))


def test_an_unknown_distance_or_submodel_is_refused() -> None:
    with pytest.raises(LtsRayError, match="use one of cosine, l2"):
        nearest_images(torch.zeros(1, 2), torch.zeros(1, 2), "l1")  # type: ignore[arg-type]
    with pytest.raises(LtsRayError, match="unknown submodel 'Q'"):
        retrieve(make_vit(), make_data(), queries=["Q"], indices=["XL"])


def test_an_evaluation_is_counted_image_by_image() -> None:
    model, images = make_vit(), make_data().held_out
    logits = {}
    with torch.inference_mode():
        for name in SUBMODELS:
            logits[name] = model((images.pixels - 0.5) / 0.5, submodel=model.config.submodel(name))
    for each in image_quality(model, SUBMODELS, images):
        chosen, universal = logits[each.name].argmax(1).tolist(), logits["XL"].argmax(1).tolist()
        labels = images.labels.tolist()
        assert each.accuracy == sum(a == b for a, b in zip(chosen, labels, strict=True)) / 20
        assert each.agreement == sum(a == b for a, b in zip(chosen, universal, strict=True)) / 20
        probabilities = torch.softmax(logits[each.name].double(), 1)
        expected = -sum(float(probabilities[i, label].log()) for i, label in enumerate(labels)) / 20
        assert each.loss == pytest.approx(expected, rel=1e-4)
        assert each.images == 20
