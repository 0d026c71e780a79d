"""Run tasks apart from the command, so that a crash, a hang or a bomb costs one task.

``tasks`` has what every engine shares. ``local`` is the engine: ``run_tasks(function, tasks,
limits)`` yields one ``TaskOutcome`` per task, in the order of the tasks. A further engine is a
module with a function of the same signature and promise, chosen in ``cv_reader.commands.progress``.
"""
