"""The page of a run in Weights & Biases: tables and images instead of HTML."""

from typing import Any

from tmkd_lightning.export.page import MATRIX_CLASSES, PAIRS, RunPage, figure_picture, picture
from tmkd_lightning.export.predictions import Predictions
from tmkd_lightning.export.report import table_rows


def log_page(page: RunPage, run: Any) -> None:
    """Logs what `write_page` writes to a run of Weights & Biases, all in one step; what a page lacks is left out.

    The keys are ``report/networks`` and ``report/mistakes``, which are tables, ``report/confusion_matrix``, or for
    many classes the table ``report/confusions``, and ``report/curves``, ``report/views`` and ``report/cam``.

    Args:
        page: of `collect_page`.
        run: such as ``logger.experiment`` of Lightning's WandbLogger, online or offline.
    """
    import wandb  # slow to import, and only needed here

    head, *body = table_rows(page.report)
    logged: dict[str, Any] = {"report/networks": wandb.Table(columns=["measured", *head[1:]], data=body)}
    if page.predictions is not None:
        logged["report/mistakes"] = _mistakes(page, page.predictions)
        logged |= _confusions(page, page.predictions)
    for name, figure in page.figures.items():
        if not isinstance(figure, str):
            drawn = figure_picture(figure)
            logged[f"report/{name}"] = wandb.Image(drawn.image, caption=drawn.caption)
    run.log(logged)


def _mistakes(page: RunPage, predictions: Predictions) -> Any:
    """A row for each mistake: image, truth, answer and probability of each network, and the file where it is known."""
    import wandb

    roles = [page.role, *(role for role in predictions.answers if role != page.role)]
    of_role = [column for role in roles for column in (role, f"{role}'s probability", f"{role}'s probability of truth")]
    table = wandb.Table(columns=["image", "truth", *of_role, "file" if page.files else "place in the split"])
    for one in predictions.mistakes:
        row: list[Any] = [wandb.Image(picture(one.image)), page.class_names[one.truth]]
        for role in roles:
            opinion = one.opinions[role]
            row += [page.class_names[opinion.answer], opinion.probability, opinion.of_truth]
        table.add_data(*row, page.files[one.index] if page.files else one.index)
    return table


def _confusions(page: RunPage, predictions: Predictions) -> dict[str, Any]:
    import wandb

    names = list(page.class_names)
    if len(names) <= MATRIX_CLASSES:
        truths, answers = predictions.truths.tolist(), predictions.answers[page.role].tolist()
        matrix = wandb.plot.confusion_matrix(y_true=truths, preds=answers, class_names=names)
        return {"report/confusion_matrix": matrix}
    rows = [
        [names[one.truth], names[one.answer], one.images, one.share] for one in predictions.confusions(page.role, PAIRS)
    ]
    return {"report/confusions": wandb.Table(columns=["truth", "answer", "images", "share of the class"], data=rows)}
