"""`python -m course`, which is the command `course`."""

from course.cli import main

main(prog_name="course")
