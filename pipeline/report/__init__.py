"""Reports: what a store or estimates say, as one HTML page with pictures and tables beside it.

- :mod:`~pipeline.report._build`: from a store to a page;
- :mod:`~pipeline.report._estimated`: from estimates to a page;
- :mod:`~pipeline.report._along`: from observations along a training to a page;
- :mod:`~pipeline.report._headline`, :mod:`~pipeline.report._spectrum`,
  :mod:`~pipeline.report._stored`, :mod:`~pipeline.report._layers`, :mod:`~pipeline.report._terms`,
  :mod:`~pipeline.report._evaluated`, :mod:`~pipeline.report._measured`,
  :mod:`~pipeline.report._approximated`, :mod:`~pipeline.report._provenance`: their sections;
- :mod:`~pipeline.report._chosen`: which eigenvectors they show, and which command has more;
- :mod:`~pipeline.report._continued`: which of them continue which;
- :mod:`~pipeline.report._page`: a page as files.
"""

from pipeline.report._build import write_report

__all__ = ["write_report"]
