"""Plans of rows and seeds, their runs, and the tables that compare them with each other and with the paper."""

from bce3s_hf.reproduction.plan import Plan, read_plan, run_name
from bce3s_hf.reproduction.progress_table import ProgressTable
from bce3s_hf.reproduction.publish import fill_tables, results, save_records
from bce3s_hf.reproduction.runs import RunError, records, run_plan
from bce3s_hf.reproduction.summary import accuracy_table, caption, difference, protocol_metrics

__all__ = [
    "Plan",
    "ProgressTable",
    "RunError",
    "accuracy_table",
    "caption",
    "difference",
    "fill_tables",
    "protocol_metrics",
    "read_plan",
    "records",
    "results",
    "run_name",
    "run_plan",
    "save_records",
]
