// Room in a base image for the names that edits add.
#pragma once

#include "image.h"

// Has the next serialized heap keep room behind each module's list of names. A module's names stand behind it in one
// list (jl_write_module), and what comes next can't move.
void leave_room_for_names(const Image &image);
