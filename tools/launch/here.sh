#!/usr/bin/env bash
# Runs a command on this machine as ssh would on another one: here.sh HOST COMMAND
exec bash -c "$2"
