"""The kinds of tasks that a head is trained for; a new one is a file here, and its name in this list."""

from collections.abc import Mapping
from typing import Any

from proxtune.evaluation.task import Task
from proxtune.evaluation.tasks.classification import Classification
from proxtune.evaluation.tasks.label_sets import LabelSets
from proxtune.evaluation.tasks.question_answering import QuestionAnswering
from proxtune.evaluation.tasks.regression import Regression
from proxtune.evaluation.tasks.tagging import Tagging

TASKS: dict[str, type[Task]] = {
    task.kind: task for task in (Classification, LabelSets, QuestionAnswering, Regression, Tagging)
}


def restore(meta: Mapping[str, Any]) -> Task:
    """The task that a trained head is for."""
    return TASKS[meta["kind"]].restore(meta)
