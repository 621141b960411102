import pytest

from normnet.baselines.methods import METHODS
from normnet.baselines.simple import SIMPLE_METHODS
from normnet.errors import ConfigError
from normnet.experiments.catalogue import (
    Baselines,
    Row,
    count_trainings,
    experiments,
    find_experiment,
    load_scale,
    n_seeds,
    row_config,
    row_votes,
)
from normnet.experiments.rivals import rivals

WANTED = {
    *(f"table{n}" for n in range(1, 6)),
    "supplementary1",
    "search-postprocessing",
    "search-threshold",
    "lungs",
    *(f"figure{n}" for n in (1, 3, 4, 5, 6, 8, 9)),
    *(f"supplementary-figure{n}" for n in range(1, 8)),
}
TABLE4 = {row.id: row for row in find_experiment("table4").rows}


def test_every_table_and_figure_is_there():
    assert set(experiments()) >= WANTED


def test_tables_come_before_figures():
    names = list(experiments())
    assert names.index("table1") < names.index("supplementary1") < names.index("figure1")
    assert names.index("figure9") < names.index("supplementary-figure1")


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", [name for name, found in experiments().items() if found.rows])
def test_every_row_has_settings_that_exist(name, scale):
    experiment = find_experiment(name)
    assert len({row.id for row in experiment.rows}) == len(experiment.rows)
    for row in experiment.rows:
        row_config(row, load_scale(scale))
        assert all(len(values) == len(experiment.scores) for values in row.paper.values())
    assert not experiment.compared_with or experiment.compared_with in {
        row.id for row in experiment.rows
    }


def test_table4_is_whole():
    romans = [
        "i",
        "ii",
        "iii",
        "iv",
        "v",
        "vi",
        "vii",
        "viii",
        "ix",
        "x",
        "xi",
        "xii",
        "xiii",
        "xiv",
    ]
    others = [
        "k_d",
        "k_f",
        "t_d",
        "t_f",
        "T-700",
        "T-600",
        "T-400",
        "T-300",
        "B",
        "a",
        "G",
        "edge",
        "areas",
        "lesions",
    ]
    assert list(TABLE4) == ["normnet", *romans, *others]
    assert all(set(row.paper) == {"coronacases", "radiopaedia", "uestc"} for row in TABLE4.values())


def test_typos_of_the_paper_are_resolved():
    scale = load_scale("paper")
    assert row_config(TABLE4["viii"], scale).synthesis.a_limits == (0.05, 0.25)
    assert row_config(TABLE4["xiv"], scale).synthesis.mu0 == (0.35, 0.85)
    assert row_config(TABLE4["B"], scale).synthesis.mu0[0] == pytest.approx(150 / 255, abs=1e-3)


def test_every_row_changes_something_but_normnet_itself():
    scale = load_scale("paper")
    base = row_config(TABLE4["normnet"], scale)
    dumps = [row_config(row, scale).model_dump_json() for row in TABLE4.values()]
    assert dumps[0] == base.model_dump_json()
    assert len(set(dumps)) == len(dumps)


def test_the_paper_scale_is_the_papers():
    config = load_scale("paper").config()
    assert config.training.slab_vox == (32, 512, 512)
    assert (config.training.batch, config.training.iterations, config.training.learning_rate) == (
        8,
        2000,
        3e-4,
    )
    assert config.inference.min_votes == "majority"  # a majority of those that vote, five or one


def test_votes():
    scale = load_scale("paper").model_copy(update={"members": 5, "seeds": 3})
    assert row_votes(TABLE4["normnet"], scale, 1) == (5, 6, 7, 8, 9)
    assert n_seeds(TABLE4["normnet"], scale) == 3
    one = Row(id="m", label="m", votes=(2,))
    assert n_seeds(one, scale) == 3
    assert [row_votes(one, scale, seed) for seed in range(3)] == [(2,), (7,), (12,)]
    assert n_seeds(Row(id="ae", label="AE", method="ae"), scale) == 1


def test_trainings_are_counted_once():
    """Rows of post-processing use NormNet's networks; a vote uses those of the single rows."""
    scale = load_scale("small")
    assert count_trainings(find_experiment("table2"), scale) == 3
    assert count_trainings(find_experiment("table4"), scale) == 3 * (len(TABLE4) - 4)
    assert count_trainings(find_experiment("table3"), scale) == 3
    assert count_trainings(find_experiment("table5"), scale) == 3 * 15
    twice = scale.model_copy(update={"seeds": 2})
    assert count_trainings(find_experiment("table4"), twice) == 2 * (len(TABLE4) - 4)
    assert count_trainings(find_experiment("table5"), twice) == 2 * 15


def test_table3_is_whole():
    """Every method of the paper with its nine numbers; they stay within their rows."""
    rows = {row.id: row for row in find_experiment("table3").rows}
    assert list(rows) == [
        "nnunet-2d",
        "nnunet-3d",
        "nnunet-unseen",
        "cople-net",
        "inf-net",
        *METHODS,
        *SIMPLE_METHODS,
        "no-growing",
        "proposed",
        "shipped",
    ]
    assert all(row.method in ("", row.id) for row in rows.values())
    assert set(rivals()) == {row.method for row in rows.values() if row.method}
    for row in rows.values():
        published = set() if row.id in SIMPLE_METHODS else {"coronacases", "radiopaedia", "uestc"}
        assert set(row.paper) == published
    assert rows["nnunet-unseen"].paper["radiopaedia"] == (68.0, 60.9, 87.6)
    assert rows["vae-original"].paper["uestc"] == (10.2, 5.2, 31.9)
    assert rows["f-anogan"].paper["coronacases"] == (15.4, 10.8, 38.3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("paper", (512, 6000, 16, 3e-4, 150)), ("small", (128, 1500, 16, 3e-4, 10))],
)
def test_size_of_the_unsupervised_methods(name, expected):
    assert tuple(load_scale(name).baselines.model_dump().values()) == expected
    assert load_scale("paper").baselines == Baselines()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[baselines]\nsize = 0", "NN-EXP-003"),
        ("seeds = 0", "NN-EXP-003"),
        ("seeds =", "NN-EXP-003"),
        ("x = 1", "NN-EXP-003"),
    ],
)
def test_bad_scales(tmp_path, text, code):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=code):
        load_scale(str(path))


def test_unknown_names():
    with pytest.raises(ConfigError, match="NN-EXP-002"):
        load_scale("nowhere.toml")
    with pytest.raises(ConfigError, match="NN-EXP-001"):
        find_experiment("table9")
