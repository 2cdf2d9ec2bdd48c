"""Parameters of the book's notebooks: words, types and ranges that are taken and refused."""

import pytest
from toroid.book import parameters
from toroid.book.parameters import ParameterError, parse, validate


def test_words_become_values_of_the_declared_type():
    words = [
        "width=2",
        "seeds=[3, 4]",
        "algorithms=sgd,sam",
        "augment=True",
        "lr=1e-3",
        "dataset=mnist",
    ]
    assert parse("connectivity", words) == {
        "width": 2.0, "seeds": [3, 4], "algorithms": ["sgd", "sam"], "augment": True, "lr": 0.001, "dataset": "mnist",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("widht=1", "no parameter 'widht'.*Did you mean 'width'"),
        ("width=wide", "width takes float, got 'wide'"),
        ("width=0", r"width is 0\.0; it can be 0\.02 to 8"),
        ("epochs=1.5", "epochs takes int, got '1.5'"),
        ("seeds=1,x", r"seeds takes list\[int\], got '1,x'"),
        ("seeds=-1", "seeds is -1; it can be 0 to 1000000"),
        ("seeds=0", r"seeds takes a list\[int\] with at least two entries, got \[0\]"),
        ("seeds=0,1,0", "seeds has 0 twice; its entries are distinct"),
        ("algorithms=sgd,sgd", "algorithms has 'sgd' twice"),
        ("n_jobs=0", "n_jobs is 0; it can be -1 to 1000, not 0"),
        ("n_jobs=-2", "n_jobs is -2; it can be -1 to 1000, not 0"),
        ("arch=vgg61", "arch is 'vgg61'; it can be mlp, .* Did you mean 'vgg16'"),
        ("augment=maybe", "augment takes bool, got 'maybe'"),
        ("width", "given as name=value, not 'width'"),
    ],
)
def test_a_wrong_word_is_refused_with_what_is_valid(word, message):
    with pytest.raises(ParameterError, match=message):
        parse("connectivity", [word])


@pytest.mark.parametrize("name", ["binary", "cluster", "connectivity", "distances"])
def test_a_page_that_compares_seeds_takes_two_or_more(name):
    with pytest.raises(ParameterError, match="at least two entries"):
        validate(name, {"seeds": [0]})


def test_words_of_a_list_can_be_two_or_more():
    help = "what is compared (one of a, b, c; two or more)"
    parameter = parameters.Parameter("kinds", "list[str]", ["a", "b"], help)
    assert parameter.convert(["a", "c"]) == ["a", "c"]
    with pytest.raises(ParameterError, match="at least two entries"):
        parameter.convert(["a"])
    with pytest.raises(ParameterError, match=r"kinds is 'd'; it can be a, b, c$"):
        parameter.convert(["a", "d"])


def test_wrong_types_are_refused():
    with pytest.raises(ParameterError, match=r"augment takes bool, got 'true' \(str\)"):
        validate("connectivity", {"augment": "true"})
    with pytest.raises(ParameterError, match=r"epochs takes int, got True \(bool\)"):
        validate("connectivity", {"epochs": True})
    with pytest.raises(
        ParameterError, match=r"seeds takes a list\[int\] with at least one entry, got \[\]"
    ):
        validate("minimizers", {"seeds": []})
    with pytest.raises(
        ParameterError, match=r"no notebook 'conectivity'.*Did you mean 'connectivity'"
    ):
        validate("conectivity", {})
    with pytest.raises(ParameterError, match="no preset 'huge'; it has quick, cifar10-"):
        parameters.preset("connectivity", "huge")


def test_a_notebook_sees_what_was_injected_under_a_wrong_name():
    namespace = {"In": [], "Out": {}, "_hidden": 1, "width": 1, "epoch": 3}
    with pytest.raises(ParameterError, match=r"'epoch'.*Did you mean 'epochs'"):
        parameters.check(namespace, "connectivity")
    del namespace["epoch"]
    parameters.check(namespace, "connectivity")
    assert namespace["width"] == 1.0
    assert isinstance(namespace["width"], float)
