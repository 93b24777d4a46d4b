from pipelines.tracking import DeliverOptions, deliver
from sddusr.cli import command_line

command_line.run(deliver, DeliverOptions)
