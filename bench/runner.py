"""The only owner of running a suite: read it, plan it, make what the store lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcl.bench.cluster import Ray, run_on_ray
from robustcl.bench.executors import Watch, default_workers, run_stages
from robustcl.bench.library import Library
from robustcl.bench.offline import go_offline
from robustcl.bench.place import Place, find_device
from robustcl.bench.plan import Plan, plan
from robustcl.bench.spec import read_suite
from robustcl.bench.store import Store
from robustcl.bench.suite import Suite, resolved
from robustcl.bench.together import join, run_together
from robustcl.models.errors import UserError
from robustcl.models.share import processes
from robustcl.models.value import Table


@dataclass(frozen=True, kw_only=True)
class Job:
    """A suite that is read and planned, and where it will run."""

    points: Sequence[Suite]
    plan: Plan
    place: Place

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.points[0].name

    @property
    def missing(self) -> list[str]:
        """The keys of the stages that the store lacks."""
        return [stage.key for stage in self.plan.stages if not self.place.store.has(stage)]


def prepare(
    suite: str | Path,
    *,
    runs: str | Path | None = None,
    device: str = "cpu",
    overrides: Sequence[str] = (),
    offline: bool = False,
    table: Table | None = None,
    elsewhere: bool = False,
) -> Job:
    """Read and plan a suite; nothing is written. `runs` defaults to `runs/<suite>`.

    Where torchrun started this process, it enters the group of all of them, which then runs the suite together.
    With a `table` these are the tables of the suite, which then is only named `suite`. `elsewhere` says that stages run
    on other machines than this one, which need not have the device.

    Errors: `UserError` for everything that is wrong with the suite, its data or the device.
    """
    if offline:
        go_offline()
    device = join(device)
    points = read_suite(suite, overrides, table)
    where = Store(Path(runs) if runs else Path("runs") / points[0].name)
    device, library = device if elsewhere else find_device(device), Library()
    made = plan(points, library)
    place = Place(store=where, library=library, files=made.files, given=made.given, device=device, offline=offline)
    return Job(points=points, plan=made, place=place)


def claim(job: Job) -> None:
    """Write down in the run folder what it is of. Errors: `UserError` where it is another suite's or cannot be."""
    if processes()[0]:
        return
    said = {"points": [resolved(point) for point in job.points], "cost": dict(job.plan.cost)}
    job.place.store.claim_suite(job.name, said, list(job.plan.cells), job.plan.probes)


def make(job: Job, watch: Watch, workers: int | None = None, ray: Ray | None = None) -> None:
    """Make every stage of the job that the store lacks, here or on a cluster. Whatever stops it, what is finished stays.

    Errors: those of the stages; `UserError` for a cluster, or workers, within a process group.
    """
    if processes()[1] > 1 and (workers or ray):
        asked = f"--workers {workers}" if workers else "--executor ray"
        raise UserError(f"{asked}: within a process group, whose processes are the workers")
    claim(job)
    stages, cost = job.plan.stages, job.plan.cost
    if processes()[1] > 1:
        run_together(stages, job.place, watch)
    elif ray:
        run_on_ray(stages, job.place, ray, workers, cost, watch)
    else:
        run_stages(stages, job.place, workers or default_workers(job.place.device), cost, watch)
