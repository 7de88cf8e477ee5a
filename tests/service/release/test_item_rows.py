from service.release.item_rows import ItemRows


def test_rows_of_a_release_less_what_changed_and_with_what_was_added() -> None:
    rows = ItemRows({"a": 0, "b": 1, "c": 2}, {"b": 3, "d": 4}, {"b", "c", "d", "unheard of"})
    assert dict(rows) == {"a": 0, "b": 3, "d": 4}
    assert len(rows) == 3
    assert [item in rows for item in ("a", "b", "c", "d", "unheard of")] == [True, True, False, True, False]
