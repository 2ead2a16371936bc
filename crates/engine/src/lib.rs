//! Pods, containers and their state as the user knows them.
