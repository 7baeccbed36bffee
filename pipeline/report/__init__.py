"""Reports: what a store or estimates say, as one HTML page with pictures and tables beside it.

- :mod:`~pipeline.report.build`: from a store to a page;
- :mod:`~pipeline.report.estimated`: from estimates to a page;
- :mod:`~pipeline.report.headline`, :mod:`~pipeline.report.spectrum`,
  :mod:`~pipeline.report.stored`, :mod:`~pipeline.report.layers`, :mod:`~pipeline.report.terms`,
  :mod:`~pipeline.report.evaluated`, :mod:`~pipeline.report.provenance`: their sections;
- :mod:`~pipeline.report.chosen`: which eigenvectors they show;
- :mod:`~pipeline.report.page`: a page as files.
"""

from pipeline.report.build import write_report

__all__ = ["write_report"]
