"""How near written texts are to the right ones, all in percent.

BLEU and chrF are sacreBLEU's (its defaults: 13a tokens, mixed case, exponential smoothing); ROUGE-L
is rouge-score's F-measure, with words of any script in lower case as its tokens.
"""

import importlib.util
import re
from collections.abc import Sequence

_LIBRARIES = ("sacrebleu", "rouge_score")


def missing_libraries() -> str | None:
    """What scores would be left out, as a sentence; None when all is there."""
    if all(importlib.util.find_spec(name) for name in _LIBRARIES):
        return None
    return "BLEU, chrF and ROUGE-L are left out: pip install 'reformer-core[seq2seq]' brings them."


def text_scores(found: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """exact_match, and with the libraries installed bleu, chrf and rouge_l."""
    same = sum(text == right for text, right in zip(found, wanted, strict=True))
    scores = {"exact_match": 100 * same / len(wanted)}
    if missing_libraries() is None:
        scores |= {**_bleu(found, wanted), "rouge_l": _rouge_l(found, wanted)}
    return scores


def _bleu(found: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    import sacrebleu

    return {
        "bleu": sacrebleu.corpus_bleu(found, [wanted]).score,
        "chrf": sacrebleu.corpus_chrf(found, [wanted]).score,
    }


def _rouge_l(found: Sequence[str], wanted: Sequence[str]) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(found, wanted, strict=True)
    scores = [scorer.score(right, text)["rougeL"].fmeasure for text, right in pairs]
    return 100 * sum(scores) / len(scores)


class _Words:
    """rouge-score's own tokens are those of English: other letters would part words."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())
