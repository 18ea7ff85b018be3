"""Every figure of a report: one file per protocol, dataset and choice of the epoch, or per protocol."""

from dmlbench.reporting.figures.classes import class_gain_plot, ends_of
from dmlbench.reporting.figures.confusions import confusion_plot
from dmlbench.reporting.figures.cost import Setup, overhead_plot, phases_plot, plane_plot, turns
from dmlbench.reporting.figures.curves import curve_plot, selection_plot
from dmlbench.reporting.figures.dots import accuracy_plot, difference_plot, forest_plot, optimism_plot, ranks_plot
from dmlbench.reporting.figures.gains import Gains, gain_plot
from dmlbench.reporting.figures.geometry import embedding_plot, geometry_plot
from dmlbench.reporting.figures.maps import map_plot
from dmlbench.reporting.figures.paired import gain_curve_plot
from dmlbench.reporting.figures.panels import gallery_panel, retrieval_panel
from dmlbench.reporting.figures.tuning import trace_plot

__all__ = [
    "Gains",
    "Setup",
    "accuracy_plot",
    "class_gain_plot",
    "confusion_plot",
    "curve_plot",
    "difference_plot",
    "embedding_plot",
    "ends_of",
    "forest_plot",
    "gain_curve_plot",
    "gain_plot",
    "gallery_panel",
    "geometry_plot",
    "map_plot",
    "optimism_plot",
    "overhead_plot",
    "phases_plot",
    "plane_plot",
    "ranks_plot",
    "retrieval_panel",
    "selection_plot",
    "trace_plot",
    "turns",
]
