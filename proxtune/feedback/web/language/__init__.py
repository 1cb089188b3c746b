"""What the pages say, by language. What an admin or a program reads of errors is English."""

from proxtune.feedback.web.language.chinese import CHINESE
from proxtune.feedback.web.language.english import ENGLISH

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
