"""The steps of tools/analysis_tools/gpu_report.sh, and the report that they make."""
