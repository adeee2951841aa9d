"""An evaluate run's accuracies, as text."""

from xling import tracking
from xling.study import Study


def accuracy_lines(study: Study, run_id: str) -> list[str]:
    """An evaluate run's accuracies as lines of text, one a language, with standard errors."""
    run = tracking.get_run(run_id)
    lines = [f"{run.name} (run {run_id})"]
    for code, family in study.languages.families.items():
        accuracy = run.metrics[f"accuracy/{code}"]
        error = run.metrics.get(f"stderr/{code}")
        spread = f" ± {error:.3f}" if error is not None else ""
        lines.append(f"  {code}  {family:<8} {accuracy:.3f}{spread}")
    warning = run.tags.get("xling.warning")
    return [*lines, f"  look at these before you use them: {warning}"] if warning else lines
