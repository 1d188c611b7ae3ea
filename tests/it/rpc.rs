//! A file for each RPC: what it does, each reason it fails with, its limits, and its repetition.

mod send_connection_request;
