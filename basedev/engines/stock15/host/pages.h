// Memory in pages of 2 MiB, where the kernel has them: a process that is forked often has fewer to copy, and one that
// frees nothing fewer to ask for.
#pragma once

#include "image.h"

// The image's objects, and what they are made of from now on. Where it can't be done, all stays as it is.
void use_large_pages(const Image &image);
// The same for what the runtime allocates only.
void allocate_in_large_pages();
