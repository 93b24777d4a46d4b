"""Mirror run folders to MLflow.

`python -m pipelines.tracking RUN` makes MLflow equal to a run folder; commands do the same in a
thread of their own. MLflow that is slow or unreachable holds up nothing: all is in the folder.
"""
