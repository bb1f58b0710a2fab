"""What can be asked for: the table of training methods, their fields and bounds, and the training spec.

Light on purpose (standard library only): web forms, API validation, the command line and the documentation iterate
`METHODS` and `COMMON_FIELDS`; nothing outside `ml/` names a method. No I/O here.
"""

from ml.specs.common import COMMON_FIELDS
from ml.specs.fields import Family, Field, Form, Kind, Method, Storage, Task
from ml.specs.forms import GROUPS, Group, how_served, why_not_served, writes_text
from ml.specs.table import METHODS
from ml.specs.tasks import TASK_KINDS, TaskKind, learnt_as
from ml.specs.train import TrainSpec, check_fits, common_fields_for, method_named, serving_form, train_spec

__all__ = [
    "COMMON_FIELDS",
    "GROUPS",
    "METHODS",
    "TASK_KINDS",
    "Family",
    "Field",
    "Form",
    "Group",
    "Kind",
    "Method",
    "Storage",
    "Task",
    "TaskKind",
    "TrainSpec",
    "check_fits",
    "common_fields_for",
    "how_served",
    "learnt_as",
    "method_named",
    "serving_form",
    "train_spec",
    "why_not_served",
    "writes_text",
]
