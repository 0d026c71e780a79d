"""Run tasks apart from the command, so that a crash, a hang or a bomb costs one task.

``tasks`` has what every engine shares. An engine is a module with a function ``run_tasks(function,
tasks, limits, ...)`` that yields one ``TaskOutcome`` per task, in the order of the tasks: ``local``
runs them on this machine, ``on_ray`` on a Ray cluster, ``on_slurm`` in jobs of Slurm. ``choice``
knows them by name.
"""
