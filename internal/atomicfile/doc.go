// Package atomicfile replaces files as a whole: whoever reads one finds what it was before or what it is now, also if the writer was killed between. The new
// content is written beside the file and takes its name at the end.
//
// What a crash of the machine, and not only of the process, may do is for the caller to say, because the disk is slow: see [Sync].
//
// The unfinished file is hidden and has one name per file, so what a crash leaves is one file at most, which the next write of the same file takes over.
// [Leftover] knows it by its name, for directories that are read as a whole. Writers of one file wait for each other, also those of different processes:
// each writes its content whole, and the last one's stays.
package atomicfile
