//! Publish, Pull, Admin, reflection.
