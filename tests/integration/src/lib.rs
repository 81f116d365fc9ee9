//! meridian-integration.
