//! What the demonstration needs beside the server itself.

pub mod link;
