//! A part of the seeds in every run of the tests; `make sim-many` runs more.

mod promises;
