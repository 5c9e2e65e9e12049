"""A session with the public client, run in its own environment; prints the results as JSON.

Arguments: the ids of a finished and of a running task, and a directory for downloads.
"""

import json
import pathlib
import sys

import inductiva  # type: ignore[import-not-found]
from inductiva import projects, tasks


def files_under(directory: pathlib.Path) -> dict[str, int]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in found}


def main(finished_id: str, running_id: str, directory: str) -> None:
    inductiva.set_output_dir(directory)
    every = tasks.get_all()
    finished, running = tasks.Task(finished_id), tasks.Task(running_id)
    output = finished.get_output_info()
    seen = {
        "latest": [task.id for task in tasks.get(last_n=3)],
        "all": {task.id: task.get_status().value for task in every},
        "success": [task.id for task in tasks.get_all(status="success")],
        "table": len(tasks.to_dict(every)["ID"]),
        "summaries": sum(task.id in task.summary for task in every),
        "projects": {project.name: project.num_tasks for project in projects.get_projects()},
        "in_project": [task.id for task in projects.Project("mixing-tank").get_tasks()],
        "machine": finished.get_machine_type(),
        "computation_time": finished.get_computation_time(),
        "running_time": running.get_computation_time(),
        "queue": [task.get_position_in_queue() for task in tasks.get_all(status="submitted")],
        "output_info": {file.name: file.size for file in output.files},
        "output_text": str(output),
    }
    some = finished.download_outputs(
        filenames=["stdout.txt", "vtk/ParticleData_Fluid_3.vtk"], output_dir=f"{directory}/some"
    )
    seen["partial"] = files_under(some)
    seen["full"] = files_under(finished.download_outputs())
    seen["inputs"] = files_under(finished.download_inputs())
    finished.set_metadata({"origin": "public client"})
    seen["metadata"] = finished.get_metadata()
    seen["kill"] = running.kill(wait_timeout=15)
    seen["killed"] = running.get_status().value
    seen["kill_finished"] = finished.kill(wait_timeout=1)
    print("\n" + json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
