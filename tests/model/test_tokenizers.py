"""Tokens of text by GPT-2, by bytes, or by any tokenizer.json: how many there are and which ends a document."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from farm.errors import BadCorpus, BadStudy
from farm.study.recipe import Data, Recipe
from farm.study.study import Study
from model.corpus import tokenizer, tokenizer_json
from model.corpus.checks import prepare
from model.corpus.sources import open_split

TEXTS = ["hello world, this is a text", "", "naïve café 🙂\n\n  two\tspaces", "a <|endoftext|> inside is only text"]


def trained(path: Path, size: int = 300, end: str = "<|endoftext|>") -> Tokenizer:
    """A byte-level BPE of `size` tokens, saved."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["hello world this is a text of words and more words"] * 9, trainer)
    made.save(str(path))
    return made


def corpus(folder: Path, *texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    rows = "\n".join(json.dumps({"text": text}) for text in texts)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(rows)
    return folder


def read(folder: Path, made_by: Path | str, cache: Path) -> list[int]:
    return open_split(Data(source=str(folder), tokenizer=str(made_by)), "train", cache).tolist()


def test_bytes_are_their_own_tokens(tmp_path: Path) -> None:
    found = read(corpus(tmp_path / "a", *TEXTS), "bytes", tmp_path / "cache")
    assert found == [token for text in TEXTS for token in [*text.encode(), 256]]


def test_a_tokenizer_json_makes_the_tokens_and_closes_each_document(tmp_path: Path) -> None:
    made = trained(tmp_path / "tokenizer.json")
    made.encode_special_tokens = True
    found = read(corpus(tmp_path / "a", *TEXTS), tmp_path / "tokenizer.json", tmp_path / "cache")
    assert found == [token for text in TEXTS for token in [*made.encode(text).ids, 0]]
    assert found.count(0) == len(TEXTS), "the name of a special token inside a text is text"
    assert made.decode(found, skip_special_tokens=False).split("<|endoftext|>")[0] == TEXTS[0]


def test_all_of_a_text_becomes_tokens_and_nothing_else(tmp_path: Path) -> None:
    """Whatever the file says of truncation, padding, templates and dropout, which are for other uses."""
    made = trained(tmp_path / "plain.json")
    made.enable_truncation(4)
    made.enable_padding(length=64)
    made.post_processor = processors.TemplateProcessing("<|endoftext|> $A <|endoftext|>", None, [("<|endoftext|>", 0)])
    made.model.dropout = 0.9
    made.save(str(tmp_path / "dressed.json"))
    folder = corpus(tmp_path / "a", *TEXTS * 20)
    assert read(folder, tmp_path / "dressed.json", tmp_path / "1") == read(
        folder, tmp_path / "plain.json", tmp_path / "2"
    )


def test_other_content_of_a_tokenizer_json_makes_other_tokens_and_the_same_content_is_used_again(
    tmp_path: Path,
) -> None:
    path, folder = tmp_path / "tokenizer.json", corpus(tmp_path / "a", *TEXTS)
    trained(path, 300)
    first = read(folder, path, tmp_path / "cache")
    path.rename(tmp_path / "moved.json")
    assert read(folder, tmp_path / "moved.json", tmp_path / "cache") == first
    assert len([*(tmp_path / "cache" / "corpora").glob("*.bin")]) == 1
    trained(path, 260)
    second = read(folder, path, tmp_path / "cache")
    assert len(second) > len(first)


@pytest.mark.parametrize("end", ["<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]"])
def test_the_end_of_text_is_found_by_its_usual_names(tmp_path: Path, end: str) -> None:
    made = trained(tmp_path / "tokenizer.json", end=end)
    found = tokenizer_json.read(tmp_path / "tokenizer.json")
    assert (found.vocab, found.end, found.end_of_text) == (made.get_vocab_size(), end, made.token_to_id(end))


def test_the_vocabulary_of_any_kind_of_model_is_counted_to_its_highest_token(tmp_path: Path) -> None:
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)], unk_id=0))
    unigram.normalizer = normalizers.Prepend("▁")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "far": 999}, unk_token="[UNK]"))
    for made, highest in ((unigram, 3), (words, 1000)):
        made.add_special_tokens(["</s>"])
        made.save(str(tmp_path / "tokenizer.json"))
        found = tokenizer_json.read(tmp_path / "tokenizer.json")
        assert found.vocab == max(made.get_vocab(with_added_tokens=True).values()) + 1
        assert found.vocab > highest or found.vocab == 1000


def saved(path: Path, **changes: object) -> Path:
    content = {"model": {"type": "BPE", "vocab": {"a": 0, "</s>": 1}, "merges": []}, "added_tokens": []}
    path.write_text(json.dumps(content | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"model": {"vocab": {"a": 0}}},
            "has no token that ends a document; looked for <|endoftext|>, .* Add one",
        ),
        ({"model": {"vocab": {"</s>": 65536}}}, "has 65,537 tokens; a token is kept in 16 bits, which end at 65,536"),
        ({"model": {}}, "is not a tokenizer.json: it has no model.vocab"),
        ({"model": {"vocab": [1]}}, "is not a tokenizer.json"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused_in_words(tmp_path: Path, changes: dict, fault: str) -> None:
    path = saved(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(BadCorpus, match=f"{path} {fault}".replace("|", r"\|")):
        read(corpus(tmp_path / "a", "x"), path, tmp_path / "cache")


def test_a_file_that_is_none_or_that_the_library_refuses_is_named(tmp_path: Path) -> None:
    folder, path = corpus(tmp_path / "a", "x"), tmp_path / "tokenizer.json"
    with pytest.raises(BadCorpus, match=f"data.tokenizer: {path}: No such file or directory"):
        read(folder, path, tmp_path / "cache")
    with pytest.raises(BadCorpus, match=f"data.tokenizer: {tmp_path}: Is a directory"):
        read(folder, tmp_path, tmp_path / "cache")
    path.write_text("{")
    with pytest.raises(BadCorpus, match=f"{path} is not a tokenizer.json"):
        read(folder, path, tmp_path / "cache")
    saved(path, pre_tokenizer={"type": "Unheard"})
    with pytest.raises(BadCorpus, match=f"{path}: .*Save it again"):
        read(folder, path, tmp_path / "cache")


def test_a_document_that_the_tokenizer_fails_on_is_named(tmp_path: Path) -> None:
    """A WordLevel without a token for what it does not know."""
    path = saved(
        tmp_path / "tokenizer.json", model={"type": "WordLevel", "vocab": {"a": 0, "</s>": 1}, "unk_token": "?"}
    )
    with pytest.raises(BadCorpus, match=r"train.jsonl: line 2: the tokenizer fails on it: .*leave it out"):
        read(corpus(tmp_path / "a", "a", "b", "a"), path, tmp_path / "cache")


def recipe(folder: Path, made_by: str, vocab: int) -> Recipe:
    tables = {"model": {"context": 4, "vocab": vocab}, "train": {"batch": 1, "tokens": 8}}
    data = {"source": str(folder), "tokenizer": made_by}
    return Recipe().with_patch(tables | {"data": data, "evaluation": {"offset": 8, "sequences": 1}})


def test_a_model_with_room_for_too_few_tokens_is_told_the_right_number(tmp_path: Path) -> None:
    """Before anything is tokenised; and not the largest token that this text happens to hold."""
    size = trained(tmp_path / "tokenizer.json").get_vocab_size()
    folder = corpus(tmp_path / "a", "hello world, this is a text that is longer")
    for made_by, tokens in ((str(tmp_path / "tokenizer.json"), size), ("bytes", 257), ("gpt2", 50257)):
        with pytest.raises(BadCorpus, match=f"has {tokens:,} tokens; .*Set model.vocab to at least {tokens:,}"):
            prepare(recipe(folder, made_by, tokens - 1), tmp_path / "cache")
        assert not (tmp_path / "cache").exists()
    prepare(recipe(folder, "bytes", 257), tmp_path / "cache")
    prepare(recipe(folder, str(tmp_path / "tokenizer.json"), size), tmp_path / "cache")


def test_a_study_names_a_tokenizer_by_word_or_by_full_path() -> None:
    text = '[study]\nname = "x"\nmachines = ["cpu"]\n[baseline.data]\ntokenizer = "{}"\n'
    for word in ("gpt2", "bytes", "/data/tokenizer.json", "~/tokenizer.json"):
        assert Study.parse(text.format(word)).runs()[0].recipe.data.tokenizer == word
    with pytest.raises(BadStudy, match=r'data.tokenizer.*must be "gpt2", "bytes" or the full path of a tokenizer.json'):
        Study.parse(text.format("tokenizer.json"))
    with pytest.raises(BadStudy, match=r"has no effect: builtin:python-reference is read as bytes"):
        Study.parse(text.format("/t.json") + 'source = "builtin:python-reference"')


def test_the_built_in_corpus_is_bytes_whichever_of_the_two_words_is_said() -> None:
    for word in ("gpt2", "bytes"):
        assert tokenizer.of(Data(source="builtin:python-reference", tokenizer=word)) is tokenizer.BYTES
