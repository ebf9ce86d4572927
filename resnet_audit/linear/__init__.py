"""One linear map at a time: its geometry, its spectrum and norms, and the batch normalisation folded into it."""

from resnet_audit.linear.conv import circular_grid, kernel_norm_sum, output_size, row_norm_sum, torus_size, windows
from resnet_audit.linear.fast import Extremes, conv_extremes, matrix_extremes, nonfinite_entries
from resnet_audit.linear.fold import fold_batch_norm
from resnet_audit.linear.lanczos import Bidiagonal, golub_kahan
from resnet_audit.linear.norm import conv_norm_upper, matrix_norm_upper
from resnet_audit.linear.padded import Estimate, conv_norm_lanczos
from resnet_audit.linear.parallel import both, map_layers, one_library_thread
from resnet_audit.linear.procrustes import Projected, procrustes
from resnet_audit.linear.spectrum import conv_singular_values, matrix_singular_values
from resnet_audit.linear.statistics import spectrum_numbers

__all__ = [
    "Bidiagonal",
    "Estimate",
    "Extremes",
    "Projected",
    "both",
    "circular_grid",
    "conv_extremes",
    "conv_norm_lanczos",
    "conv_norm_upper",
    "conv_singular_values",
    "fold_batch_norm",
    "golub_kahan",
    "kernel_norm_sum",
    "map_layers",
    "matrix_extremes",
    "matrix_norm_upper",
    "matrix_singular_values",
    "nonfinite_entries",
    "one_library_thread",
    "output_size",
    "procrustes",
    "row_norm_sum",
    "spectrum_numbers",
    "torus_size",
    "windows",
]
