"""The tables of results are those of the JSON files that the experiments have left."""

import importlib
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.docs.pages import ROOT, name_of, paths


@pytest.fixture(scope="module")
def tables() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs" / "hooks")
        yield importlib.import_module("tables")


# One row of every table, as it was published.
ROWS = {
    "polarity": "| MCTS, causal (32) | .97 [.93, .98] | 5.0 | .46 | 168 |",
    "polarity_fr": "| GeDi | .77 [.70, .82] | 39.1 | .44 | 3.6 |",
    "emotion": "| MCTS, generative (32) | .21 [.15, .29] | 8.4 | .13 | 7.7 | 1723 |",
    "topic": "| MCTS, shared trunk (32 simulations) | .70 [.59, .79] | 5.6 | .06 | 116 |",
    "which_discriminator": "| generative | .89 (.76) | .75 (.74) | 32 | .72 [.55, .84] "
    "| 9.3 | .044 | 0.47 |",
    "budget": "| rollout, puct | 8 | .97 [.84, .99] | .79 | 4.56 | 7.10 |",
    "budget_preset": "| 64 | 8 | .89 [.85, .93] | .85 [.74, .92] | .77 | 4.15 | 4.8 |",
    "waves": "| descend | 64 | 4 | .98 [.89, 1.00] | 4.7 | 10 | 1.23 |",
    "sentiment": "| nucleus 0.9 | .48 [.42, .54] | .65 [.52, .76] | .47 [.38, .56] "
    "| .33 [.23, .46] | 15.84 | 0.0004 | 0.93 | 0.03 | 0.6 |",
    "detox": "| MCTS, 32 simulations | .19 | .301 [.22, .39] | 4.8 |",
    "captioning": "| WTF-RL | .16 [.14, .18] | .44 | .57 | .30 | .19 [.16, .21] | "
    ".43 [.40, .46] | .17 | .42 | .56 | 8.9 | .09 [.07, .10] |",
    "captioning_guided": "| teacher forcing, best of 10 beams | .42 [.36, .47] | .77 | .87 | .57 "
    "| .44 [.39, .50] | .49 [.43, .55] | .17 | .44 | .53 | 10.0 | .14 [.10, .18] |",
    "captioning_heads": "| heads on all images | 6000 | .26 [.24, .29] | .53 | .64 | "
    ".20 [.19, .22] | .48 | .61 |",
    "captioning_ratios": "| WTF-RL | 1050 | 1.06 [0.91, 1.22] | 1.12 [0.96, 1.31] "
    "| 0.98 [0.92, 1.03] |",
    "captions": "| GCN, tree search | 3.91 ± .03 | 1.46 | .244 ± .006 | .224 ± .020 | 389 ± 59 "
    "| .03 |",
    "watermark_rates": "| **4** | **gumbel exact, each pair once** | **1.0e-2** | **1.1e-3** "
    "| **1.1e-4** | **1.2e-5** |",
    "watermark_strength": "| greenlist 4.0, window 4 | .263 | 19.6 | -78.6 | .96 | .15 | .23 "
    "| .96 |",
    "watermark_squad": "| greenlist 4.0, window 4 | 21.7 | -78.5 | 1.00 | 1.00 |",
    "watermark_paraphrase": "| gumbel 1.0, window 1 | .40 | -75.0 | 1.00 | -1.1 | .21 |",
    "watermark_users": "| gumbel | 1e-06 | .98 | .98 | .96 | .94 |",
    "watermark_tasks": "| greenlist 4.0, window 4 | .44 [.34, .54] | .42 [.35, .49] |",
    "value_for_time": "| FUDGE with a distilled look-ahead head, greedy, tuned | 0.08 "
    "| .54 [.48, .60] | .33 | .13 | .47 [.41, .54] | .40 | .12 | 4.7 | +.03 [-.05, +.11] "
    "| -.03 [-.11, +.05] |",
    "value_for_time_parts": "| **search, the default preset** (128 simulations, wave 16) | 4.2 "
    "| .88 | .48 [.42, .55] | .50 | .02 | +.39 [+.32, +.47] | .54 [.47, .60] | .34 | .12 "
    "| +.34 [+.27, +.41] |",
    "teachers": "| mean of sentiment and sentiment-minilm | .891 | +.000 [-.015, +.016] | .893 "
    "| +.013 [-.001, +.027] |",
    "packaged_guides": "| openings | `topic` | search, default preset, 32 simulations "
    "| .67 [.53, .78] | .67 [.53, .78] | 4.7 |",
    "prefixes": "| full texts: logistic regression on MiniLM's states | .64 (.25) | .69 (.19) "
    "| .72 (.14) | .72 (.12) | .69 (.10) | .78 (.07) |",
    "therapy": "| Therapy, reactions | .57 [.41, .70] | .61 [.45, .73] | 1.00, .95 | 688 |",
    "therapy_news": "| LIME | .39 [.20, .55] | .46 [.28, .61] | .27 [.07, .44] | .45 [.27, .60] "
    "| .90, .85, .65, .65 | 2 |",
    "therapy_sizes": "| Therapy, weights | ag_news | world | .54 | .53 | .46 | -.13 |",
    "therapy_examples": "| amazon_reviews | negative | disappointing, worst, disappointment, "
    "horrible, boring, poor, waste, garbage, terrible, poorly, avoid, uncomfortable | not in the "
    "mongo, Not in the mongo, to find a Not in the mongo, to save not on a worst ... |",
    "therapy_moves": "| chance | .00 | .00 | .00 | .00 | .00 | .00 | .00 | .00 |",
    "therapy_news_moves": "| chance | .00 | .00 | .00 | .00 | .01 | .01 | .03 | .03 |",
    "therapy_planted": "| canada | negative | 6 | no | 2 | 2 | no | 0 |",
    "therapy_heads": "| topic | sports | .95 | football, league, nba, soccer, player, coach, team, "
    "england, game, played | god, someone, representing, ac, whether, terms, correct, situations, "
    "fabric, plays |",
    "watermark_cost": "| greenlist | 151.2 | 1.018 |",
    "questions": "| GCN | greedy | 14.7 | 36.9 | 34.7 | 10.4 | 27 [17, 38] | 33 [23, 45] |",
}


@pytest.mark.parametrize("name", list(ROWS))
def test_a_table_has_a_published_row_and_all_its_rows_are_as_wide(tables, name):
    lines = tables.TABLES[name]().splitlines()
    assert ROWS[name] in lines
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) > 4 and not re.search(r"\bnan\b", "".join(lines))


def test_every_table_stands_on_a_page_and_every_marker_has_a_table(tables):
    named = []
    for path in paths():
        named += re.findall(r"^<!-- table: (\w+) -->$", path.read_text(encoding="utf-8"), re.M)
    assert sorted(named) == sorted(tables.TABLES) == sorted(ROWS)


def test_no_result_is_left_out():
    """Every file of an experiment is read for a table, or named on a page."""
    hooks = (ROOT / "docs" / "hooks").glob("*tables.py")
    source = "".join(path.read_text(encoding="utf-8") for path in hooks)
    pages = "".join(path.read_text(encoding="utf-8") for path in paths())
    for path in (ROOT / "experiments" / "results").glob("*.json"):
        if "-" not in path.stem:
            assert f'"{path.stem}"' in source or path.name in pages, path.name


# The words that docs/contribute/vocabulary.md rules out.
CODE = re.compile(r"^```.*?^```$|`[^`]*`", re.MULTILINE | re.DOTALL)
RULED_OUT = re.compile(r"\blearnt\b|\bbeginnings\b|\bpeople's\b|\bheld-out\b(?! nats)", re.I)


def test_the_pages_keep_to_the_vocabulary():
    for path in paths():
        name = name_of(path)
        prose = re.sub(
            r"^```.*?^```$|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.M | re.S
        )
        if name != "contribute/vocabulary.md":
            assert not RULED_OUT.findall(prose), f"{name}: {RULED_OUT.findall(prose)}"
