"""The machinery that runs the course. A notebook uses four names of it: begin, check, start_server, CourseError."""

from course.checks import check
from course.errors import CourseError
from course.servers import start_server
from course.session import begin

__all__ = ["CourseError", "begin", "check", "start_server"]
