import numpy as np

from twotower.maps.neighbours import nearest, neighbours_of_each, unit_vectors


def test_vectors_get_length_one_and_zero_stays_zero() -> None:
    units = unit_vectors(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(units, np.array([[0.6, 0.8], [0, 0]], np.float32), rtol=1e-6)


def test_the_nearest_come_first_with_their_cosines() -> None:
    units_ND = unit_vectors(np.array([[1, 0], [1, 1], [0, 1]], np.float32))
    rows, cosines = nearest(np.array([[1, 0]], np.float32), units_ND, 2)
    assert rows.tolist() == [[0, 1]]
    np.testing.assert_allclose(cosines, [[1, 0.5**0.5]], rtol=1e-6)


def test_each_vector_comes_first_among_its_neighbours_as_in_a_full_search() -> None:
    units_ND = unit_vectors(np.random.default_rng(0).normal(size=(1300, 8)).astype(np.float32))
    rows_NK, distances_NK = neighbours_of_each(units_ND, 5)
    full_NN = units_ND.astype(np.float64) @ units_ND.T
    np.fill_diagonal(full_NN, 2)
    np.testing.assert_array_equal(rows_NK, np.argsort(-full_NN, axis=1)[:, :6])
    assert (distances_NK[:, 0] == 0).all()
    assert (np.diff(distances_NK, axis=1) >= 0).all()


def test_a_vector_with_many_equals_is_still_its_own_first_neighbour() -> None:
    units_ND = np.ones((10, 1), np.float32)
    rows_NK, distances_NK = neighbours_of_each(units_ND, 3)
    assert rows_NK[:, 0].tolist() == list(range(10))
    assert rows_NK.shape == distances_NK.shape == (10, 4)
    assert all(len(set(row)) == 4 for row in rows_NK.tolist())
