"""Makes malformed jobs: junk, the paths in a job, and changes at them."""

from collections.abc import Iterator

from hypothesis import strategies as st

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        ["auto", "sam", "resnet8", "q_p", "\ud800", "\x1b[2J", "a\nb", "tpe", 10**99, -1, 0, 1, 0.5]
    ),
    st.lists(st.integers() | st.text(max_size=3) | st.floats(), max_size=3),
    st.dictionaries(
        st.sampled_from(["uniform", "choice", "loguniform", "lr", "rho", "x", "\ud800"]),
        st.floats() | st.lists(st.floats(0, 1), max_size=3),
        max_size=2,
    ),
    st.recursive(
        st.integers(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=6,
    ),
)


def paths(value: object, at: tuple = ()) -> Iterator[tuple]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*at, key))


def put(job: dict, path: tuple, action: str, junk: object) -> None:
    """Replaces, removes, or adds beside what is at a path; does nothing if it no longer exists."""
    inside = job
    for key in path[:-1]:
        try:
            inside = inside[key]
        except (LookupError, TypeError):
            return
    if not isinstance(inside, dict | list) or (isinstance(inside, dict) != isinstance(path[-1], str)):
        return
    if isinstance(inside, list) and path[-1] >= len(inside):
        return
    if action == "replace":
        inside[path[-1]] = junk
    elif action == "remove" and (isinstance(inside, list) or path[-1] in inside):
        del inside[path[-1]]
    elif isinstance(inside, list):
        inside.append(junk)
    else:
        inside[junk if isinstance(junk, str) else f"{path[-1]}s"] = junk
