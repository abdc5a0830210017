"""The rows of `metrics.csv`."""

import csv

from swancli.evaluate.metrics import Direction, Scores
from swancli.train.history import Epoch, metrics_row, write_metrics
from swancli.workspace import Run


def test_each_direction_has_its_own_columns(tmp_path):
    to_text = Direction({1: 1.5, 5: 2.5, 10: 3.5}, median_rank=4, mean_rank=5.5, queries=6, skipped=0)
    to_image = Direction({1: 11.5, 5: 12.5, 10: 13.5}, median_rank=14, mean_rank=15.5, queries=16, skipped=0)
    epoch = Epoch(3, 0.25, 1000.0, 60.0, Scores(to_text, to_image), best=True)
    run = Run(tmp_path)
    write_metrics(run, [metrics_row(epoch, lr=0.0002)])
    with run.metrics.open() as file:
        (row,) = csv.DictReader(file)
    assert {name: float(value) for name, value in row.items()} == {
        **{"epoch": 3, "lr": 0.0002, "loss": 0.25, "pairs_per_second": 1000, "seconds": 60},
        **{"i2t_R@1": 1.5, "i2t_R@5": 2.5, "i2t_R@10": 3.5, "i2t_median_rank": 4, "i2t_mean_rank": 5.5},
        **{"t2i_R@1": 11.5, "t2i_R@5": 12.5, "t2i_R@10": 13.5, "t2i_median_rank": 14, "t2i_mean_rank": 15.5},
        "mR": 7.5,  # (1.5 + 2.5 + 3.5 + 11.5 + 12.5 + 13.5) / 6
    }
