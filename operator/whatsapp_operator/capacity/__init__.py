"""How much a number of sessions needs, and what a day with them looks like: `python -m whatsapp_operator.capacity`.

`figures` holds what was measured and what is assumed, `sizing` the arithmetic, `autoscaler` a model of the
HorizontalPodAutoscaler, `day` a simulated day that drives the real planner, `picture` its drawing. All of them are
calculations: no I/O, no clock, and no randomness but that of a seed.
"""
