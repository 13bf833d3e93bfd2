"""HyperQueue through its PyPI package, which has no program `hq`: a cluster, and the two commands that `bench submit` calls.

python hq.py cluster WORKERS                                 runs until standard input is closed
python hq.py --output-mode json job submit-file FILE.toml    prints {"id": 1}
python hq.py --output-mode json job list                     prints the jobs that have not ended

HQ_SERVER_DIR names the cluster's folder.
"""

import json
import os
import sys
import tomllib
from pathlib import Path

from hyperqueue import Job
from hyperqueue.client import Client
from hyperqueue.cluster import LocalCluster, WorkerConfig
from hyperqueue.ffi.protocol import ResourceRequest

# Fields of the job file that this program understands: an unknown one is an error, as for `hq`.
TASK = {"id", "command", "deps", "cwd", "stdout", "stderr", "env", "request"}


def cluster(folder, workers):
    with LocalCluster(server_dir=str(folder)) as running:
        for _ in range(workers):
            running.start_worker(WorkerConfig(cores=1))
        print("ready", flush=True)
        sys.stdin.read()


def request(about):
    resources = dict(about["resources"])
    return ResourceRequest(cpus=int(resources.pop("cpus", 1)), resources=resources)


def submit(folder, file):
    about = tomllib.loads(Path(file).read_text())
    job, tasks = Job(name=about["name"], max_fails=None), {}
    for task in about["task"]:
        assert set(task) <= TASK, set(task) - TASK
        tasks[task["id"]] = job.program(
            task["command"],
            cwd=task["cwd"],
            env=task["env"],
            stdout=task["stdout"],
            stderr=task["stderr"],
            deps=[tasks[before] for before in task["deps"]],
            resources=[request(one) for one in task.get("request", [])] or None,
        )
    job_id = Client(folder).submit(job).id
    with open(folder / "ids", "a") as ids:
        ids.write(f"{job_id}\n")
    print(json.dumps({"id": job_id}))


def jobs(folder):
    """The package can only wait for jobs; its first report says which have ended."""
    ids = tuple(int(line) for line in (folder / "ids").read_text().split())

    def report(all_jobs):
        print(json.dumps([{"id": number} for number, state in all_jobs.items() if not state["completed"]]), flush=True)
        os._exit(0)

    Client(folder).connection.wait_for_jobs(ids, report)
    print("[]")


folder = Path(os.environ["HQ_SERVER_DIR"])
match sys.argv[1:]:
    case ["cluster", workers]:
        cluster(folder, int(workers))
    case ["--output-mode", "json", "job", "submit-file", file]:
        submit(folder, file)
    case ["--output-mode", "json", "job", "list"]:
        jobs(folder)
    case other:
        sys.exit(f"hq.py: {other}")
