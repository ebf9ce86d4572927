"""Audit a trained residual network from its checkpoint alone."""
