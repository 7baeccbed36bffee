"""Reports: what a store says, as one HTML page with pictures and tables beside it.

- :mod:`~pipeline.report.build`: from a store to a page;
- :mod:`~pipeline.report.headline`, :mod:`~pipeline.report.stored`,
  :mod:`~pipeline.report.layers`, :mod:`~pipeline.report.evaluated`: its sections;
- :mod:`~pipeline.report.page`: a page as files.
"""

from pipeline.report.build import write_report

__all__ = ["write_report"]
