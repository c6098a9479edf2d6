// The ids of log messages (Base.CoreLogging), which Julia keeps distinct within an image.
#pragma once

#include "image.h"

#include <string>

// Log messages in methods that the image has in lines `from` to `to` of `file` are gone: their ids may be given again.
void free_log_ids(const Image &image, const std::string &file, long from, long to);
