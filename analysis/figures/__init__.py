"""Figures of an analysis: drawn without pyplot, saved as SVG and PNG."""
