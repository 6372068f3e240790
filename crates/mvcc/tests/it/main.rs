//! The store from outside.

mod store;
